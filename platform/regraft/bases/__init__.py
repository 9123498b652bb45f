"""Bases (pretrained models): find, check and load them, find their blocks, and adapt them to a task."""
