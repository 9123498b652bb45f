"""Entities of WNUT17: trains MiniLM on 3,394 sentences and measures entity F1 on dev.

python tests/benchmarks/wnut17.py

Takes a quarter of an hour on two cores.
"""

from __future__ import annotations

import sys

import trained

GOALS = {"wnut17-full": trained.Goal("f1", 0.45, epochs=3)}


if __name__ == "__main__":
    sys.exit(trained.run(__doc__, GOALS))
