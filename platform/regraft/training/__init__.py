"""The loop and what surrounds it; runs without Ray."""
