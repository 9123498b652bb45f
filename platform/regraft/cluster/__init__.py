"""The only floor that imports Ray."""
