"""What may be written: a run, its search, an endpoint."""
