"""One worker of a search: it loads the base once and runs many trials on it."""
