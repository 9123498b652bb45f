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
from select_features import DEVELOPMENT, FRESH, JUDGING, kept_set

from regraft.selection.members import scores
from regraft.selection.paired_interval import DifferenceInterval, HalfLearned, paired_difference
from regraft.selection.score import FeatureTarget

CASES = 50
"""Cases of a set: 200 in all."""
ROWS = 500
"""Rows of a sample, as `regraft select` takes them; a quarter of the set where that is less."""
SCORES = ("knn", "linear_probe")
BOTH = "mean of both"
"""What the verdict of `regraft select` compares: the mean of the scores of a row."""
LEFT_OUT = ("minilm-1", "v1-early", "v2-early")
"""Bases that are worse than the others beyond doubt."""
LEAST, MOST = 0.85, 0.95


def measured(name: str, cases: int) -> dict[str, Any]:
    """Return for each score the share of cases whose interval covers, over pairs of bases."""
    every = kept_set(name)
    features = {base: found for base, found in every.features.items() if base not in LEFT_OUT}
    rows = min(ROWS, len(every.target) // 4)
    pairs = list(itertools.combinations(sorted(features), 2))
    truth = by_base(features, every.target, 0)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in range(cases):
        draw = np.random.default_rng([case, len(name)])
        chosen = sample(every.target, rows, draw)
        target = every.target.take(chosen)
        seen = by_base({base: values[chosen] for base, values in features.items()}, target, case)
        for score, (one, other) in itertools.product((*SCORES, BOTH), pairs):
            first, second = seen[score, one], seen[score, other]
            learned = HalfLearned(first[1], second[1], len(chosen) / len(every.target))
            interval = paired_difference(first[0], second[0], draw, groups=target.groups, learned=learned)
            wanted = float(truth[score, one][0].mean() - truth[score, other][0].mean())
            found[score].append({"pair": f"{one} - {other}", **compared(interval, wanted)})
    return {score: {**summary(lines), "rows": rows, "of": len(every.target)} for score, lines in found.items()}


def compared(interval: DifferenceInterval, wanted: float) -> dict[str, Any]:
    """Return whether an interval covers, its error, and the error in units of its half on that side."""
    error = wanted - interval.difference
    half = interval.high - interval.difference if error > 0 else interval.difference - interval.low
    covers = interval.low <= wanted <= interval.high
    return {"covers": covers, "error": error, "halves": abs(error) / max(half, 1e-12), "half": half}


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the share that covers, what would make it nine tenths, and both by pair."""
    by_pair = {}
    for pair in sorted({line["pair"] for line in lines}):
        own = [line for line in lines if line["pair"] == pair]
        by_pair[pair] = {key: round(float(np.mean([line[key] for line in own])), 4) for key in ("covers", "error")}
    return {
        "covers": float(np.mean([line["covers"] for line in lines])),
        "half_width": float(np.median([line["half"] for line in lines])),
        "widening_for_nine_tenths": float(np.quantile([line["halves"] for line in lines], 0.9)),
        "by_pair": by_pair,
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
    """Return each score of each row for each base, (2, rows): by the other rows, and by half of them."""
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for score, base in itertools.product(SCORES, features):
        one = scores()[score].evaluate(features[base], target, np.random.default_rng(seed))
        assert one.by_row is not None and one.by_half is not None
        found[score, base] = np.stack([one.by_row, one.by_half])
    for base in features:
        found[BOTH, base] = np.mean([found[score, base] for score in SCORES], axis=0)
    return found


def main() -> int:
    """Measure every set; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["dev", "test", "fresh"], default="test")
    parser.add_argument("--cases", type=int, default=CASES)
    options = parser.parse_args()
    sets = {}
    for name in {"dev": DEVELOPMENT, "test": JUDGING, "fresh": FRESH}[options.part]:
        sets[name] = measured(name, options.cases)
        print(name, json.dumps(sets[name]), flush=True)
    covers = {score: float(np.mean([found[score]["covers"] for found in sets.values()])) for score in (*SCORES, BOTH)}
    reached = all(LEAST <= share <= MOST for share in covers.values())
    figures = {"goal": [LEAST, MOST], "reached": reached, "cases": options.cases, "covers": covers, "sets": sets}
    record.write("select_intervals" if options.part == "test" else f"select_intervals-{options.part}", figures)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
