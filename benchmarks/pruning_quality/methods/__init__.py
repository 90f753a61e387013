"""The methods that are compared; `registry.METHODS` lists them."""
