"""Specs that users write: of a run, its search, and an endpoint."""
