"""Proves a written file against the PyTorch model. Start with `target_check.py`; each check has its own file."""
