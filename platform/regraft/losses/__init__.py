"""Losses: extra terms beside the task's own loss; one file per loss."""
