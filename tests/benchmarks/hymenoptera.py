"""Ants and bees from 244 photos: trains ImageNet's MobileNets and measures accuracy on 153.

python tests/benchmarks/hymenoptera.py hymenoptera-feature-extraction

Takes a minute or two each. The best epoch is chosen on the same photos that are reported.
"""

from __future__ import annotations

import sys

import trained

GOALS = {
    "hymenoptera-feature-extraction": trained.Goal("accuracy", 0.94),
    "hymenoptera-full": trained.Goal("accuracy", 0.82),
    "hymenoptera-lora": trained.Goal("accuracy", 0.80),
}


if __name__ == "__main__":
    sys.exit(trained.run(__doc__, GOALS))
