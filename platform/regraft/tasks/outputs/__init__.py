"""Halves of tasks: losses, metrics and answers of a kind of output."""
