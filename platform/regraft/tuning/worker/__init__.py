"""A worker of a search: it runs trials on one loaded base."""
