"""Halves of tasks: how a row of text or an image is encoded."""
