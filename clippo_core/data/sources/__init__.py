"""Readers of the formats in which pairs are published; `kinds.py` has the table."""
