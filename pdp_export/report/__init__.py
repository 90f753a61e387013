"""report.json, the one-file HTML page and the terminal table."""
