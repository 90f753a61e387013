"""Other ways to make the same masked network smaller."""
