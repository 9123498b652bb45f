"""Schedules of fine-tuning beside `full` and `lora`: MiniLM on tickets and 2,000 sentences of SST-2, three seeds.

python tests/benchmarks/schedules.py --budget-seconds 3000

Nothing is written but the method and the seed: rates and epochs are the defaults, which were not chosen on these rows.
The score is that after the last step, so that the rows that judge choose no epoch. A line is written for each finished
cell, and a cell with a line is not run again, so the script goes on where it ended. `results/schedules.json` holds the
table of the finished cells.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import record
from defaults import ROWS, SETS, lines

from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local

METHODS = ("bitfit", "gradual-unfreezing", "ia3", "lora", "full", "lp-ft")
NAMES = ("tickets", "sst2")
SEEDS = (0, 1, 2)


def cells() -> Iterator[dict[str, Any]]:
    """Yield the cells: all methods with one seed first, the smaller set before the larger."""
    for seed in SEEDS:
        for rows in NAMES:
            for method in METHODS:
                yield {"rows": rows, "method": method, "seed": seed}


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """Train a cell and return its figures."""
    with tempfile.TemporaryDirectory(prefix="regraft-schedules-") as place:
        folder = Path(place)
        rows = SETS[cell["rows"]](folder, ROWS["final"])
        spec = RunSpec.resolve(
            {
                "name": f"{cell['rows']}-{cell['method']}",
                "base": rows.base,
                "task": rows.task,
                "method": cell["method"],
                "data": {"train": rows.train, "eval": rows.eval, "bad_rows": "skip", **rows.options},
                "training": {"baselines": False, "seed": cell["seed"]},
                "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
                "store": str(folder / "store"),
            }
        )
        began = time.process_time()
        outcome = train_local(spec)
        series = open_store(spec.store).get(f"runs/{outcome.run}/metrics.jsonl").decode().splitlines()
        evaluations = [line for line in map(json.loads, series) if "eval_loss" in line]
        return {
            "accuracy": evaluations[-1]["eval_accuracy"],
            "loss": evaluations[-1]["eval_loss"],
            "series": [line["eval_accuracy"] for line in evaluations],
            "steps": evaluations[-1]["step"],
            "delta_bytes": outcome.delta_bytes,
            "cpu_seconds": round(time.process_time() - began, 1),
        }


def table(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each set and method: means over seeds, the spread, and the cost."""
    rows = []
    for name in NAMES:
        for method in METHODS:
            done = [line for line in found if (line["rows"], line["method"]) == (name, method)]
            if not done:
                continue
            scores = [line["accuracy"] for line in done]
            rows.append(
                {
                    "rows": name,
                    "method": method,
                    "seeds": [line["seed"] for line in done],
                    "accuracy": round(statistics.mean(scores), 4),
                    "deviation": round(statistics.stdev(scores), 4) if len(scores) > 1 else None,
                    "loss": round(statistics.mean(line["loss"] for line in done), 4),
                    "steps": done[0]["steps"],
                    "cpu_seconds": round(statistics.mean(line["cpu_seconds"] for line in done)),
                    "delta_bytes": done[0]["delta_bytes"],
                }
            )
    return rows


def main() -> int:
    """Run the cells that have no line yet, until the time is over; write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=NAMES, help="the sets of rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin no cell after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "schedules.jsonl", help="a line a finished cell")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    for cell in cells():
        chosen = cell["rows"] in options.rows and cell["method"] in options.methods and cell["seed"] in options.seeds
        done = any(all(line[key] == value for key, value in cell.items()) for line in lines(options.lines))
        if not chosen or done or time.monotonic() - began > options.budget_seconds:
            continue
        figures = measured(cell)
        with open(options.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({**cell, **figures}) + "\n")
        print(cell, figures, flush=True)
    record.write("schedules", {"table": table(lines(options.lines))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
