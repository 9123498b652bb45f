"""Scores of a model on target rows that need none of their labels: one file each."""
