"""Methods: which weights of a model are trained; one file per method."""
