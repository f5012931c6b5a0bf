"""The dashboard: a page of statistics, and the numbers for it."""
