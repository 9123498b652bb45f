"""The trunk, a model's frozen first part: its outputs are computed once for each row and reused."""
