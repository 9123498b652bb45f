"""Eight rows a class: `setfit` beside heads on frozen features, `full`, and the `setfit` package on the same rows.

nice -n 5 python tests/benchmarks/few_shot.py --part dev
nice -n 5 python tests/benchmarks/few_shot.py --part test --oracle PYTHON --budget-seconds 3000

`test` draws eight rows of each class from the training rows with each seed, and judges on rows that chose nothing.
`dev` draws from one half of the training rows and judges on the other half: settings are changed by it alone. PYTHON
is an interpreter that has the package `setfit`; without it, that arm is left out. A line is written for each finished
run, and a run with a line is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import record
from defaults import MINILM, csv_file, lines
from trained import SHARED

from regraft.spec.run import RunSpec
from regraft.training.session import train_local

Labelled = list[tuple[str, str]]
SHOTS, JUDGES = 8, 600
"""Rows of each class that train, and most rows that judge."""
SEEDS = tuple(range(10))
SETS = ("tickets", "sst2")
RATES = (2e-5, 5e-5, 1e-4, 2e-4)
"""Learning rates that are tried on the development part."""
ORACLE = "setfit package"
ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "setfit": ("setfit", {}),
    "head": ("feature-extraction", {"steps": 100}),
    "prototypes": ("prototypes", {}),
    "full": ("full", {"steps": 30}),
}
"""Method and training keys of each arm; what is not written is the method's default."""
GOAL = 0.02


def read(path: Path) -> Labelled:
    """Return the texts and labels of a file."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)]
    written = path.read_text(encoding="utf-8").splitlines()
    return [(text, label) for text, _, label in (line.rpartition("\t") for line in written)]


def sides(name: str, part: str) -> tuple[Labelled, Labelled]:
    """Return the rows to draw from, and those that judge."""
    places = {
        "tickets": [record.ROOT / "jobs" / "data" / f"tickets-{side}.csv" for side in ("train", "eval")],
        "sst2": [SHARED / "data" / "sst2" / f"{side}.tsv" for side in ("train", "test")],
    }[name]
    train, judges = (read(place) for place in places)
    Random(0).shuffle(train)
    if part == "dev":
        half = len(train) // 2
        train, judges = train[:half], train[half:]
    return train, judges[:JUDGES]


def drawn(rows: Labelled, seed: int) -> Labelled:
    """Return eight rows of each class."""
    by_label: defaultdict[str, Labelled] = defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    return [row for label in sorted(by_label) for row in Random(f"{seed}/{label}").sample(by_label[label], SHOTS)]


def ours(name: str, part: str, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm; return its figures on the rows that judge."""
    method, training = ARMS[arm.partition(" ")[0]]
    if " at " in arm:
        training = {**training, "lr": float(arm.rpartition(" ")[2])}
    rows, judges = sides(name, part)
    with tempfile.TemporaryDirectory(prefix="regraft-few-shot-") as place:
        folder = Path(place)
        train = csv_file(folder / "train.csv", ["text", "label"], [list(row) for row in drawn(rows, seed)])
        judge = csv_file(folder / "judges.csv", ["text", "label"], [list(row) for row in judges])
        document: dict[str, Any] = {
            "name": "few",
            "base": MINILM,
            "task": {"type": "text-classification", "max_length": 64},
            "method": method,
            "data": {"train": train, "eval": judge},
            "training": {"seed": seed, "baselines": False, "eval_steps": 10_000, **training},
            "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
            "store": str(folder / "store"),
        }
        started, cpu = time.monotonic(), time.process_time()
        outcome = train_local(RunSpec.resolve(document))
        # The last step is evaluated alone: these rows choose nothing.
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        figures = {"accuracy": outcome.metrics["accuracy"], "rows": len(judges)}
        return {**figures, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


def theirs(name: str, part: str, seed: int, python: str) -> dict[str, Any]:
    """Train the package on the same rows, in its own process."""
    rows, judges = sides(name, part)
    package, _, folder = MINILM.removeprefix("package:").partition("/")
    found = find_spec(package)
    assert found is not None and found.origin is not None
    base = str(Path(found.origin).parent / folder)
    given = {"base": base, "seed": seed, "train": drawn(rows, seed), "judges": judges, "arguments": {}}
    done = subprocess.run(
        [python, str(record.HERE / "few_shot_oracle.py")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
    )
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: round(value, 4) for key, value in figures.items()}


def cells(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    """Yield set, part, arm and seed of each run."""
    part = options.part
    arms = (
        [f"setfit at {rate:g}" for rate in RATES] if part == "dev" else [*ARMS, *([ORACLE] if options.oracle else [])]
    )
    for seed in options.seeds:
        for name in SETS:
            yield from ((name, part, arm, seed) for arm in arms if not options.arms or arm in options.arms)


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each set and arm of the test part the mean accuracy, its deviation over seeds, and the mean time."""
    table: dict[str, Any] = {}
    for name in SETS:
        for arm in (*ARMS, ORACLE):
            lot = [one for one in found if (one["set"], one["part"], one["arm"]) == (name, "test", arm)]
            if lot:
                scores = [one["accuracy"] for one in lot]
                spread = statistics.stdev(scores) if len(scores) > 1 else None
                seconds = statistics.mean(one["cpu_seconds"] for one in lot)
                figures = {"accuracy": statistics.mean(scores), "deviation": spread, "cpu_seconds": seconds}
                table.setdefault(name, {})[arm] = {"seeds": len(lot), **figures}
    return table


def paired(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean gain of `setfit` over the package, over seeds that both have on both sets, and both times."""
    known = {(one["set"], one["arm"], one["seed"]): one for one in found if one["part"] == "test"}
    arms = ("setfit", ORACLE)
    seeds = [seed for seed in SEEDS if all((name, arm, seed) in known for name in SETS for arm in arms)]
    if not seeds:
        return {}
    score, seconds = (
        {arm: statistics.mean(known[name, arm, seed][key] for name in SETS for seed in seeds) for arm in arms}
        for key in ("accuracy", "cpu_seconds")
    )
    return {"seeds": len(seeds), "accuracy": score, "cpu_seconds": seconds, "gain": score[arms[0]] - score[arms[1]]}


def main() -> int:
    """Make the runs that have no line yet, until the time is over; write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["dev", "test"], default="test")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", help="these arms alone")
    parser.add_argument("--oracle", metavar="PYTHON", help="an interpreter that has the package setfit")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin no run after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "few_shot.jsonl", help="a line a run")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    for name, part, arm, seed in cells(options):
        done = {(one["set"], one["part"], one["arm"], one["seed"]) for one in lines(options.lines)}
        if (name, part, arm, seed) in done or time.monotonic() - began > options.budget_seconds:
            continue
        figures = theirs(name, part, seed, options.oracle) if arm == ORACLE else ours(name, part, arm, seed)
        line = {"set": name, "part": part, "arm": arm, "seed": seed, **figures}
        with open(options.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    found = lines(options.lines)
    both = paired(found)
    reached = both.get("gain", 0) >= GOAL and both["cpu_seconds"]["setfit"] <= both["cpu_seconds"][ORACLE]
    record.write("few_shot", {"goal": GOAL, "reached": reached, "both": both, "table": summary(found), "runs": found})
    print(json.dumps(both))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
