"""What the data mean: one file a task."""
