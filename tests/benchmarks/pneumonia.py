"""Pneumonia on chest x-rays: trains the smallest MobileNet with class weights and measures on test.

python tests/benchmarks/pneumonia.py pneumonia-feature-extraction

Takes some minutes on two cores. The best epoch is chosen on val; the 624 test rows are used once, at the end.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record
import trained

from regraft.evaluation.evaluate import evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local

NAMES = ["pneumonia-feature-extraction", "pneumonia-full"]
GOAL = trained.Goal("balanced_accuracy", 0.80)
TEST = "../shared/data/pneumoniamnist/pneumoniamnist.npz#test"


def main() -> int:
    """Train each requested benchmark and measure it on test; return 1 if one misses the goal."""
    options = trained.arguments(__doc__, NAMES)
    overrides = parse_set(options.set)
    reached = [measure(name, overrides, options.results) for name in options.names]
    return 0 if all(reached) else 1


def measure(name: str, overrides: Mapping[str, object], results: Path) -> bool:
    """Train, evaluate on test, record and print; return whether the goal is reached."""
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as store:
        spec = trained.resolved(name, overrides, store)
        outcome = train_local(spec, progress=trained.show)
        found = tested(spec, Path(store) / "evaluation")
    reached = bool(found["metrics"][GOAL.metric] >= GOAL.least)
    figures = {
        **trained.measured(spec, outcome, GOAL),
        "reached": reached,
        "metrics": found["metrics"],
        "intervals": found["intervals"],
        "val": outcome.metrics,
        "tables": {table["title"]: table for table in found["findings"]["tables"]},
    }
    record.write(name, figures, results)
    print(f"{name}: {GOAL.metric} {found['metrics'][GOAL.metric]:.4f} on test, goal {GOAL.least}, reached: {reached}")
    shown(figures["tables"]["Operating points"])
    return reached


def tested(spec: RunSpec, output: Path) -> dict[str, Any]:
    """Evaluate the registered version on the test rows."""
    options = EvaluationOptions(output=output, worst=0)
    return evaluate(open_store(spec.store), spec.name, trained.shared(TEST), options=options).document


def shown(table: dict[str, Any]) -> None:
    """Print a table of the findings in columns."""
    for row in (table["columns"], *table["rows"]):
        cells = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        print("  ".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
