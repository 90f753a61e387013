"""The user's side: model and data factories, loss, metric, preprocessing."""
