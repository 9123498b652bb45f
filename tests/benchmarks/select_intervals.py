"""Intervals of the verdict: do they cover the difference of two bases' scores on all rows?

python tests/benchmarks/select_intervals.py [--part dev]

A case is a sample of a set's rows, without replacement. Each score of each base is computed on it, and a paired
interval for each pair of bases. It covers if it holds the difference of the same scores on all rows of the set.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray
from select_features import DEVELOPMENT, JUDGING, kept_set

from regraft.selection.members import scores
from regraft.selection.score import FeatureTarget
from regraft.selection.verdict import paired_difference

CASES = 200
ROWS = 300
"""Rows of a sample; a quarter of the set where that is less."""
SCORES = ("knn", "linear_probe")
LEAST, MOST = 0.85, 0.95


def measured(name: str, cases: int) -> dict[str, Any]:
    """Return for each score the share of cases whose interval covers, over pairs of bases."""
    every = kept_set(name)
    rows = min(ROWS, len(every.target) // 4)
    pairs = list(itertools.combinations(sorted(every.features), 2))
    truth = by_base(every.features, every.target, 0)
    hits: dict[str, list[bool]] = defaultdict(list)
    shifts: dict[str, list[float]] = defaultdict(list)
    widths: dict[str, list[float]] = defaultdict(list)
    for case in range(cases):
        draw = np.random.default_rng([case, len(name)])
        chosen = sample(every.target, rows, draw)
        target = every.target.take(chosen)
        found = by_base({base: features[chosen] for base, features in every.features.items()}, target, case)
        for score, (one, other) in itertools.product(SCORES, pairs):
            interval = paired_difference(found[score, one], found[score, other], draw, groups=target.groups)
            wanted = float(truth[score, one].mean() - truth[score, other].mean())
            hits[score].append(interval.low <= wanted <= interval.high)
            shifts[score].append(interval.difference - wanted)
            widths[score].append(interval.high - interval.low)
    return {
        score: {
            "covers": float(np.mean(hits[score])),
            "by_pair": {
                " - ".join(pair): float(np.mean(hits[score][at :: len(pairs)])) for at, pair in enumerate(pairs)
            },
            "bias": {
                " - ".join(pair): float(np.mean(shifts[score][at :: len(pairs)])) for at, pair in enumerate(pairs)
            },
            "half_width": float(np.median(widths[score])) / 2,
            "rows": rows,
            "of": len(every.target),
        }
        for score in SCORES
    }


def sample(target: FeatureTarget, rows: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Return rows drawn without replacement, or groups until there are as many rows."""
    if target.groups is None:
        return np.sort(draw.permutation(len(target))[:rows])
    rank = draw.permutation(int(target.groups.max()) + 1)[target.groups]
    sizes = np.bincount(rank)
    return np.flatnonzero(rank <= np.searchsorted(np.cumsum(sizes), rows))


def by_base(
    features: dict[str, NDArray[np.float64]], target: FeatureTarget, seed: int
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return each score of each row for each base; folds are the same for all bases."""
    found = {}
    for score, base in itertools.product(SCORES, features):
        by_row = scores()[score].evaluate(features[base], target, np.random.default_rng(seed)).by_row
        assert by_row is not None
        found[score, base] = by_row
    return found


def main() -> int:
    """Measure every set; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["dev", "test"], default="test")
    parser.add_argument("--cases", type=int, default=CASES)
    options = parser.parse_args()
    sets = {}
    for name in DEVELOPMENT if options.part == "dev" else JUDGING:
        sets[name] = measured(name, options.cases)
        print(name, json.dumps(sets[name]), flush=True)
    covers = {score: float(np.mean([found[score]["covers"] for found in sets.values()])) for score in SCORES}
    reached = all(LEAST <= found[score]["covers"] <= MOST for found in sets.values() for score in SCORES)
    figures = {"goal": [LEAST, MOST], "reached": reached, "cases": options.cases, "covers": covers, "sets": sets}
    record.write("select_intervals" if options.part == "test" else "select_intervals-dev", figures)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
