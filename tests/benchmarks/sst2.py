"""How good are the methods on SST-2? Trains MiniLM on 6,920 sentences and compares dev accuracy with the goals.

python tests/benchmarks/sst2.py --method full

The sentences are read from `$REGRAFT_SHARED/data/sst2` (default: `../shared` beside the checkout). Takes minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record

from regraft.spec import RunSpec, parse_set
from regraft.training.session import Outcome, train_local


@dataclass(frozen=True)
class Goal:
    """Dev accuracy to reach, and in how many passes over the rows at most."""

    accuracy: float
    epochs: int | None = None


GOALS = {"full": Goal(0.87, epochs=2), "lora": Goal(0.85, epochs=3), "feature-extraction": Goal(0.78)}


def main() -> int:
    """Train each method asked for; 1 when one misses its goal."""
    options = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    reached = [measure(method, options) for method in options.method or GOALS]
    return 0 if all(reached) else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--method", action="append", choices=list(GOALS), help="may be repeated (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field of the spec")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON files")
    return parser.parse_args()


def measure(method: str, options: argparse.Namespace) -> bool:
    """Train one method in a store of its own and record what came out; whether the goal is reached."""
    goal = GOALS[method]
    with tempfile.TemporaryDirectory(prefix="regraft-sst2-") as store:
        spec = resolved(method, parse_set(options.set), store)
        assert goal.epochs is None or spec.training.epochs <= goal.epochs
        outcome = train_local(spec, progress=show)
    reached = outcome.metrics["accuracy"] >= goal.accuracy
    record.write(f"sst2-{method}", figures(spec, outcome, goal, reached=reached), options.results)
    print(f"{method}: accuracy {outcome.metrics['accuracy']:.4f}, goal {goal.accuracy}, reached: {reached}")
    return reached


def resolved(method: str, overrides: Mapping[str, object], store: str) -> RunSpec:
    """The method's spec with the sentences from the shared folder."""
    shared = Path(os.environ.get("REGRAFT_SHARED", record.ROOT.parent / "shared")) / "data" / "sst2"
    if not shared.is_dir():
        raise SystemExit(f"no SST-2 in {shared}: set REGRAFT_SHARED to the folder that holds data/sst2")
    paths = {"data.train": str(shared / "train.tsv"), "data.eval": str(shared / "dev.tsv"), "store": store}
    return RunSpec.load(record.HERE / "specs" / f"sst2-{method}.yaml", overrides={**paths, **overrides})


def figures(spec: RunSpec, outcome: Outcome, goal: Goal, *, reached: bool) -> dict[str, Any]:
    """What the JSON file says of a run."""
    return {
        "goal": {"accuracy": goal.accuracy, "epochs": goal.epochs},
        "reached": reached,
        "metrics": outcome.metrics,
        "baselines": outcome.baselines,
        "gain_over_nearest_centroid": outcome.gain,
        "seconds": round(outcome.seconds, 1),
        "delta_bytes": outcome.delta_bytes,
        "base_bytes": outcome.base_bytes,
        "method": spec.method.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
    }


def show(event: Mapping[str, Any]) -> None:
    """A line now and then."""
    kind = event["event"]
    if kind == "step" and event["step"] % 20 == 0:
        print(
            f"step {event['step']}/{event['steps']} loss {event['loss']:.3f} left {event['left_s']:.0f} s", flush=True
        )
    elif kind in ("eval", "baseline"):
        print(kind, event.get("name", f"step {event.get('step')}"), event["metrics"], flush=True)
    elif kind in ("note", "start"):
        print({key: value for key, value in event.items() if key != "event"}, flush=True)


if __name__ == "__main__":
    sys.exit(main())
