"""Comparisons with other tools: `compare.py` runs them beside gpu4d, `read_results.py` shows that they read its files."""
