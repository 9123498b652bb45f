"""Scores of a base's features for a task's labels, without training of the base: one file each."""
