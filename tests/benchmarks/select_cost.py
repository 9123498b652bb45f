"""The cost of `regraft select` beside that of fine-tuning all bases, and how many rows a run that follows computes.

nice -n 5 python tests/benchmarks/select_cost.py

Costs are CPU seconds of the cells of `select_bases.py`: one selection among six bases, and one fine-tuning of each, of
80 steps of 16 rows. `defaults` scales the latter to the steps that the method's defaults take on the same rows. Then a
selection with `--warm` is followed by a run of its first choice, on one set of each medium.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
from choice_sets import BASES, DEVELOPMENT, MEDIA, ROWS, SETS, document, write_base
from select_bases import lines

import regraft
from regraft.contracts import TrunkProgress
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.training.run import steps_of
from regraft.training.session import train_local

EACH, MEDIAN = 1 / 6, 1 / 10
"""Most cost of a selection, as a share of fine-tuning all: of each set, and in the median."""
FOLLOWED = {"tickets": ("minilm-2", "minilm-1"), "hymenoptera": ("v1-0.25", "v1-0.25-random")}
"""Sets and bases of the selections that a run follows."""


def ratios(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each set the cost of a selection as a share of fine-tuning all its bases."""
    table = {}
    for one in found:
        if one["stage"] != "choose":
            continue
        cells = [cell for cell in found if cell["stage"] == "truth" and cell["set"] == one["set"]]
        every = [
            statistics.mean(seconds)
            for base in BASES[MEDIA[one["set"]]]
            if (seconds := [cell["cpu_seconds"] for cell in cells if cell["base"] == base])
        ]
        if len(every) == len(BASES[MEDIA[one["set"]]]):
            share = one["cpu_seconds"] / sum(every)
            table[one["set"]] = {
                "part": "development" if one["set"] in DEVELOPMENT else "test",
                "select_cpu_seconds": one["cpu_seconds"],
                "fine_tuning_cpu_seconds": sum(every),
                "share": share,
                "share_of_defaults": share / longer(),
            }
    return table


def longer() -> float:
    """Return how many times as many rows the defaults of full fine-tuning read as the benchmark's runs."""
    with tempfile.TemporaryDirectory() as place:
        written = document("x", SETS["tickets"](Path(place)), "org/base", 0, Path(place))
        short = written["training"]["steps"] * written["training"]["batch_size"]
        spec = resolve_auto(RunSpec.resolve({**written, "training": {"seed": 0}}), ROWS)
        return steps_of(spec.training, ROWS) * spec.training.batch_size / short


def computed_after(name: str) -> dict[str, int]:
    """Select with `warm`, train the first choice, and return how many rows each of them computed."""
    with tempfile.TemporaryDirectory(prefix="regraft-select-") as place:
        folder = Path(place)
        rows = SETS[name](folder)
        bases = [write_base(base, folder / "bases" / base) for base in FOLLOWED[name]]
        written = document(name, rows, bases[0], 0, folder / "store")
        written |= {"method": {"type": "freeze", "depth": 1}, "compute": {**written["compute"], "trunk": "disk"}}
        written["training"]["steps"] = 40
        outcome = regraft.select(written, bases, warm=True, progress=lambda event: None)
        seen: list[TrunkProgress] = []
        spec = RunSpec.resolve({**written, "base": outcome.base})
        train_local(spec, progress=lambda event: seen.append(event) if isinstance(event, TrunkProgress) else None)
        selected = sum(one["rows"]["computed"] for one in outcome.bases)
        return {"select": selected, "run": max((event.total for event in seen), default=0)}


def main() -> int:
    """Measure and record; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "select_bases.jsonl", help="those cells")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    after = {name: computed_after(name) for name in FOLLOWED}
    table = ratios(lines(options.lines))
    shares = [one["share"] for one in table.values()]
    defaults = [one["share_of_defaults"] for one in table.values()]
    none_again = all(one["run"] == 0 for one in after.values())
    figures: dict[str, Any] = {"goal": {"each": EACH, "median": MEDIAN}, "table": table, "computed_rows": after}
    if shares:
        figures["most"] = {"measured": max(shares), "of_defaults": max(defaults)}
        figures["median"] = {"measured": statistics.median(shares), "of_defaults": statistics.median(defaults)}
    reached = bool(shares) and max(shares, default=math.inf) <= EACH and statistics.median(shares) <= MEDIAN
    record.write("select_cost", {**figures, "reached": reached and none_again})
    return 0 if reached and none_again else 1


if __name__ == "__main__":
    sys.exit(main())
