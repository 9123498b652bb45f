"""Masked language modelling on target texts before fine-tuning on source rows, beside fine-tuning alone.

nice -n 5 python tests/benchmarks/masked_lm_first.py --part dev --part test --budget-seconds 3000

`test` is movie reviews to product reviews: ratings of sentences, positive or negative. Half of the target's texts are
read without labels; the other half judges, once. `dev` is a made shift of SST-2, from sentences of at most 12 words
to those of 20 and more: settings may be changed by it alone. A line is written for each finished run, and a run with
a line is not trained again, so the script goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import record
from defaults import MINILM, csv_file, lines
from trained import SHARED

from regraft.spec.run import RunSpec
from regraft.training.session import train_local

SEEDS = (0, 1, 2, 3, 4)
SOURCE, JUDGES = 2000, 1800
"""Most source rows that train, and most target rows that judge."""
RUN = {"epochs": 2, "batch_size": 32, "baselines": False}
"""Fine-tuning on source rows; the rate is the default of `full`, and the last step counts."""
STAGE = {"steps": 200, "lr": 1e-4, "eval_steps": 200}
"""Masked language modelling on target texts."""
MAX_LENGTH = 64
ARMS = ("source only", "masked-lm first")
GOAL = 0.02
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t of a 95 % interval, by the number of seeds."""
Labelled = list[tuple[str, str]]


def reviews(name: str) -> Labelled:
    """Return sentences with the sign of their rating; those without one are left out."""
    path = SHARED / "data" / "sentiment_multidomain" / f"{name}_GroundTruth.txt"
    cells = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    rated = [(text, float(rating)) for _, rating, text in cells]
    return [(text, "positive" if rating > 0 else "negative") for text, rating in rated if rating and text.strip()]


def pair(part: str) -> tuple[Labelled, Labelled]:
    """Return the rows of source and target, each shuffled in one order for all seeds."""
    if part == "test":
        source, target = reviews("movieReviewSnippets"), reviews("amazonReviewSnippets")
    else:
        written = (SHARED / "data" / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
        rows = [(text, label) for text, _, label in (line.rpartition("\t") for line in written)]
        source = [row for row in rows if len(row[0].split()) <= 12]
        target = [row for row in rows if len(row[0].split()) >= 20]
    for rows in (source, target):
        Random(0).shuffle(rows)
    return source, target


def files(part: str, folder: Path) -> dict[str, str]:
    """Write source rows, target texts without labels, and labelled target rows that judge; return their paths."""
    source, target = pair(part)
    half = len(target) // 2
    sides = {"source": source[:SOURCE], "judges": target[half : half + JUDGES]}
    found = {
        name: csv_file(folder / f"{name}.csv", ["text", "label"], [list(row) for row in rows])
        for name, rows in sides.items()
    }
    return {**found, "texts": csv_file(folder / "texts.csv", ["text"], [[text] for text, _ in target[:half]])}


def measured(part: str, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm with one seed; return its figures on the rows that judge."""
    with tempfile.TemporaryDirectory(prefix="regraft-masked-lm-") as place:
        folder = Path(place)
        found = files(part, folder)
        document: dict[str, Any] = {
            "name": "sentiment",
            "base": MINILM,
            "task": {"type": "text-classification", "max_length": MAX_LENGTH},
            "method": "full",
            "data": {"train": found["source"], "eval": 0.05, "test": found["judges"], "bad_rows": "skip"},
            "training": {**RUN, "seed": seed, "eval_steps": 10_000},
            "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
            "store": str(folder / "store"),
        }
        if arm == ARMS[1]:
            task = {"type": "masked-lm", "max_length": MAX_LENGTH}
            data = {"train": found["texts"], "eval": 0.05, "bad_rows": "skip"}
            document["stages"] = [{"task": task, "data": data, "training": STAGE}]
        outcome = train_local(RunSpec.resolve(document))
        assert outcome.test is not None
        return {"accuracy": outcome.test["metrics"]["accuracy"], "rows": outcome.test["rows"]}


def cells(parts: list[str], seeds: list[int]) -> Iterator[tuple[str, str, int]]:
    """Yield part, arm and seed of each run: pairs of arms one after another."""
    yield from ((part, arm, seed) for part in parts for seed in seeds for arm in ARMS)


def summary(found: list[dict[str, Any]], part: str) -> dict[str, Any]:
    """Return the paired differences between the arms with their mean and its 95 % interval over seeds."""
    scores = {(line["arm"], line["seed"]): line["accuracy"] for line in found if line["part"] == part}
    pairs = [(scores[ARMS[0], seed], scores[ARMS[1], seed]) for seed in SEEDS if (ARMS[1], seed) in scores]
    if not pairs:
        return {}
    gains = [second - first for first, second in pairs]
    mean = statistics.mean(gains)
    figures = {"seeds": len(gains), "gains": gains, "gain": mean}
    figures |= {arm: statistics.mean(column) for arm, column in zip(ARMS, zip(*pairs, strict=True), strict=True)}
    if len(gains) > 1:
        half = T_95[len(gains)] * statistics.stdev(gains) / math.sqrt(len(gains))
        figures |= {"low": mean - half, "high": mean + half}
    return figures


def main() -> int:
    """Run what has no line yet, until the time is over; write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=["dev", "test"], help="which pair (both)")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin no run after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "masked_lm_first.jsonl", help="a line a run")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began = time.monotonic()
    done = {(line["part"], line["arm"], line["seed"]) for line in lines(options.lines)}
    for part, arm, seed in cells(options.part or ["dev", "test"], options.seeds):
        if (part, arm, seed) in done or time.monotonic() - began > options.budget_seconds:
            continue
        started, cpu = time.monotonic(), time.process_time()
        figures = measured(part, arm, seed)
        seconds = {
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        line = {"part": part, "arm": arm, "seed": seed, **figures, **seconds}
        with open(options.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    found = lines(options.lines)
    results = {part: summary(found, part) for part in ("dev", "test")}
    reached = results["test"].get("gain", 0) >= GOAL and results["test"].get("low", 0) > 0
    record.write("masked_lm_first", {"goal": GOAL, "reached": reached, **results, "runs": found})
    print(json.dumps(results))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
