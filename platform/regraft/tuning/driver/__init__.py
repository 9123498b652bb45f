"""The driver of a search: it prepares, hands out trials, keeps records and checkpoints, and registers the winner."""
