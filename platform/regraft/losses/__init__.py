"""Losses: extra terms, added to the task's own loss; one file per loss."""
