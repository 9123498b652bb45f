"""Kinds of columns: one file a kind, which states everything that the platform asks of its values."""
