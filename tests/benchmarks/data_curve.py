"""The law of the data curve: fitted to at most half of the labels, does it foretell the score of all of them?

python tests/benchmarks/data_curve.py [--part dev]

A draw is four fifths of a set's training rows, taken as all the labels there are. The curve is measured on the rows
that judge. The law sees shares up to 50 %; its interval covers if it holds the score of 100 %. Adapted is a pretrained
base's features, random start is the same base's with random weights.
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

import numpy as np
import record
from select_features import DEVELOPMENT, JUDGING, KEPT, RANDOM, KeptSet, kept_set

from regraft.selection.learning_curve import MeasuredCurve, measure_curve, rows_to_reach
from regraft.selection.learning_law import fit_law

DRAWS = 20
PART = 0.8
LEAST, MOST, WIDEST = 0.80, 0.97, 0.05
BASES = {"amazon": "minilm-6", "amazon-ratings": "minilm-6", "mnist": "v1", "sst2": "minilm-6", "tickets": "minilm-6"}
"""The base of each set; of the others, MobileNetV2."""


def measured(name: str, draws: int) -> list[dict[str, Any]]:
    """Return the law's prediction beside the measured score, for each draw."""
    base = BASES.get(name, "v2")
    found = []
    for number in range(draws):
        curve = curve_of(name, base, number)
        law = fit_law(curve.up_to(0.5), np.random.default_rng(number))
        seen = law.at(float(curve.rows[-1]))
        line = {"set": name, "draw": number, "score": float(curve.values[-1]), **vars(seen)}
        line["covers"] = seen.low <= line["score"] <= seen.high
        found.append({**line, "curve": [round(float(value), 4) for value in curve.values]})
    return found


@cache
def loaded(name: str) -> KeptSet:
    """Return a set, read once."""
    return kept_set(name)


def curve_of(name: str, base: str, number: int) -> MeasuredCurve:
    """Return the curve of a draw, measured once and kept: the same rows for each base."""
    path = KEPT / "curves" / f"{name}-{base}-{number}.npz"
    if not path.is_file():
        found = new_curve(loaded(name), base, number)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, shares=found.shares, rows=found.rows, scores=found.scores)
    with np.load(path) as arrays:
        return MeasuredCurve(arrays["shares"], arrays["rows"], arrays["scores"])


def new_curve(every: KeptSet, base: str, number: int) -> MeasuredCurve:
    """Measure the curve of a draw."""
    draw = np.random.default_rng(number)
    fitting = draw.permutation(len(every.target) - every.judges)
    fitting = fitting[: round(PART * len(fitting))]
    rows = np.concatenate([fitting, np.arange(len(every.target) - every.judges, len(every.target))])
    judges = np.arange(len(fitting), len(rows))
    return measure_curve(every.features[base][rows], every.target.take(rows), draw, judges=judges)


def transfer(name: str) -> dict[str, Any]:
    """Return what a base's features reach with a tenth of the labels, beside random weights with all: five draws."""
    base = BASES.get(name, "v2")
    found = []
    for number in range(5):
        adapted, random = (curve_of(name, which, number) for which in (base, f"{RANDOM}-{base}"))
        tenth = int(np.flatnonzero(np.isclose(adapted.shares, 0.1))[0])
        whole = float(random.values[-1])
        line = {"adapted_tenth": float(adapted.values[tenth]), "random_whole": whole}
        found.append({**line, "rows_to_reach_random": rows_to_reach(adapted, whole), "rows": float(adapted.rows[-1])})
    means = {key: float(np.mean([line[key] for line in found])) for key in ("adapted_tenth", "random_whole", "rows")}
    reached = [line["rows_to_reach_random"] for line in found if line["rows_to_reach_random"] is not None]
    return {**means, "reach_random": len(reached), "rows_to_reach_random": float(np.mean(reached)) if reached else None}


def main() -> int:
    """Measure every set; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["dev", "test"], default="test")
    parser.add_argument("--draws", type=int, default=DRAWS)
    options = parser.parse_args()
    names = DEVELOPMENT if options.part == "dev" else JUDGING
    draws = [line for name in names for line in measured(name, options.draws)]
    figures: dict[str, Any] = {
        "covers": float(np.mean([line["covers"] for line in draws])),
        "covers_by_set": {
            name: float(np.mean([line["covers"] for line in draws if line["set"] == name])) for name in names
        },
        "half_width": float(np.median([line["high"] - line["low"] for line in draws])) / 2,
        "error": float(np.mean([abs(line["value"] - line["score"]) for line in draws])),
        "transfer": {name: transfer(name) for name in names},
    }
    reached = LEAST <= figures["covers"] <= MOST and figures["half_width"] <= WIDEST
    if "hymenoptera" in names:
        found = figures["transfer"]["hymenoptera"]
        reached = reached and found["adapted_tenth"] >= found["random_whole"]
    print(figures, flush=True)
    goal = {"covers": [LEAST, MOST], "half_width": WIDEST}
    record.write(
        "data_curve" if options.part == "test" else "data_curve-dev",
        {"goal": goal, "reached": reached, **figures, "draws": draws},
    )
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
