"""The training loop and its surroundings; runs without Ray."""
