"""Outputs of tasks: what the logits of a row mean."""
