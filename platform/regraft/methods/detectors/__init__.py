"""Layers that closed-form methods fit to patches of usual images."""
