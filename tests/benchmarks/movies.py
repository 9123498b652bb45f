"""Ratings of sentences of film reviews: trains MiniLM on 9,500 of them and measures on the other tenth.

python tests/benchmarks/movies.py

Takes some ten minutes on two cores. The tenth is held out by a stable hash of the row, and used once, at the end.
"""

from __future__ import annotations

import sys

import trained

GOALS = {"movies-regression": trained.Goal("spearman", 0.55, epochs=2)}


if __name__ == "__main__":
    sys.exit(trained.run(__doc__, GOALS))
