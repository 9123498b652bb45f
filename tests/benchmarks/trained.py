"""Trainings on real data with a goal; shared by the benchmarks of one spec and one metric.

Data and bases are read from `$REGRAFT_SHARED` (default: `../shared` beside the checkout).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
import yaml

from regraft.contracts import BaselineMeasured, EvaluationDone, Event, Note, Started, Stepped
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.training.registration import Outcome
from regraft.training.session import train_local

SHARED = Path(os.environ.get("REGRAFT_SHARED", record.ROOT.parent / "shared"))


@dataclass(frozen=True)
class Goal:
    """The required value of a metric, and the most epochs to reach it."""

    metric: str
    least: float
    epochs: int | None = None


def arguments(description: str | None, names: list[str]) -> argparse.Namespace:
    """Parse the command line; `names` are the benchmarks of the script."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of the spec")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    if strange := [name for name in options.names if name not in names]:
        parser.error(f"{strange[0]!r} is written; allowed are {', '.join(names)}")
    options.names = options.names or names
    os.environ["HF_HUB_OFFLINE"] = "1"
    return options


def run(description: str | None, goals: Mapping[str, Goal]) -> int:
    """Train `specs/<name>.yaml` for each requested benchmark and record; return 1 if one misses its goal."""
    options = arguments(description, list(goals))
    reached = []
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as store:
            spec = resolved(name, parse_set(options.set), store)
            outcome = train_local(spec, progress=show)
        figures = measured(spec, outcome, goals[name])
        record.write(name, figures, options.results)
        reached.append(figures["reached"])
        goal = goals[name]
        print(f"{name}: {goal.metric} {outcome.metrics[goal.metric]:.4f}, goal {goal.least}, reached: {reached[-1]}")
    return 0 if all(reached) else 1


def resolved(name: str, overrides: Mapping[str, object], store: str) -> RunSpec:
    """Return the spec with the path of `../shared` on this machine."""
    path = record.HERE / "specs" / f"{name}.yaml"
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = {"base": written["base"], "data.train": written["data"]["train"], "data.eval": written["data"]["eval"]}
    found = {key: shared(place) for key, place in places.items() if str(place).startswith("../shared/")}
    return RunSpec.load(path, overrides={**found, "store": store, **overrides})


def shared(place: str) -> str:
    """Return a path of the spec below the shared folder; exit if it does not exist."""
    path = SHARED / place.removeprefix("../shared/")
    if not Path(str(path).partition("#")[0]).exists():
        raise SystemExit(f"there is no {path}: set REGRAFT_SHARED to the folder that holds data and models")
    return str(path)


def measured(spec: RunSpec, outcome: Outcome, goal: Goal) -> dict[str, Any]:
    """Return the record of a run."""
    assert goal.epochs is None or spec.training.epochs <= goal.epochs
    return {
        "goal": {goal.metric: goal.least, "epochs": goal.epochs},
        "reached": outcome.metrics[goal.metric] >= goal.least,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "gain_over_nearest_centroid": outcome.gain,
        "seconds": round(outcome.seconds, 1),
        "delta_bytes": outcome.delta_bytes,
        "base_bytes": outcome.base_bytes,
        "task": spec.task.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
    }


def show(event: Event) -> None:
    """Print a line from time to time."""
    match event:
        case Stepped() if event.step % 20 == 0:
            print(f"step {event.step}/{event.steps} loss {event.loss:.3f} left {event.left_s:.0f} s", flush=True)
        case EvaluationDone():
            print(event.event, f"step {event.step}", event.metrics, flush=True)
        case BaselineMeasured():
            print(event.event, event.name, event.metrics, flush=True)
        case Note() | Started():
            print(event.document(), flush=True)
