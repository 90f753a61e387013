"""Opens a written file and runs it: one twin per converter. Start with `registry.py`."""
