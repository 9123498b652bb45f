"""The HTML page of a search and its plots."""
