"""Which weights move: one file a method."""
