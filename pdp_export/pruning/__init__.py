"""PDP itself: soft masks, patterns, allocation, schedule, and the Pruner that applies them."""
