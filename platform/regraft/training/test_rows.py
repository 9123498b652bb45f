"""The test rows: the checkpoint to register is measured on them once, after everything is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta
from regraft.bases.tensor_files import read_tensors
from regraft.contracts import MeasuredOnTest, Record
from regraft.data.rows import Rows
from regraft.errors import Damaged
from regraft.report.intervals import bootstrap
from regraft.store.checkpoints import SavedCheckpoint, ranked
from regraft.store.runs import RunDocument
from regraft.training.evaluate import evaluate
from regraft.training.harness import Harness
from regraft.training.run import Run

Publish = Callable[[Run, Mapping[str, Any]], None]
"""Stores a run's log with one more line."""


@dataclass(frozen=True, slots=True)
class MeasuringSite:
    """Where test rows are measured: the model, its rank, and the arithmetic of its evaluations."""

    adapted: Adapted
    harness: Harness
    autocast: Any
    size: int
    """Rows of a batch."""


def report_test(run: Run, document: RunDocument, folder: Path, publish: Publish) -> None:
    """Measure a finished run's best checkpoint on the test rows, unless it is recorded; called on every rank.

    The result is stored in the run's document, and `publish` gets the last line of the run's log. `folder` is scratch.
    """
    rows, harness = run.snapshot.test, run.harness
    if rows is None:
        return
    saved, fetched = _best_checkpoint(run, folder)
    known = (document.read().get("test") if harness.first else None) or {}
    measured = harness.from_first(known if saved is not None and known.get("checkpoint") == saved.prefix else None)
    if saved is None:
        return
    if measured is None:
        apply_delta(run.adapted, read_tensors(fetched / "delta.safetensors"))
        size = max(32, run.spec.training.batch_size)
        site = MeasuringSite(run.adapted, harness, run.accelerator.autocast(), size)
        measured = measure_test(site, rows) | {"checkpoint": saved.prefix, "step": saved.step}
        if harness.first:
            document.update(test=measured)
        harness.emit(MeasuredOnTest(len(rows), measured["metrics"], measured["intervals"]))
    line = {f"test_{name}": value for name, value in measured["metrics"].items()}
    publish(run, {"step": run.state.step, "epoch": run.state.step / run.per_epoch, **line})


def measure_test(site: MeasuringSite, rows: Rows) -> dict[str, Any]:
    """Return the metrics of a model on the test rows, with the 95 % interval of each on the first rank."""
    adapted, harness = site.adapted, site.harness
    metrics, records = evaluate(adapted, rows, harness, size=site.size, autocast=site.autocast)

    def metrics_of(chosen: Sequence[Record]) -> Mapping[str, float]:
        return adapted.task.metrics(chosen, adapted.context)

    found = bootstrap(metrics_of, records) if harness.first else None
    bounds = found.bounds if found else {}
    intervals = {name: {"low": low, "high": high} for name, (low, high) in bounds.items()}
    note = {"note": found.note} if found and found.note else {}
    return {"rows": len(rows), "metrics": dict(metrics), "intervals": intervals, **note}


def _best_checkpoint(run: Run, folder: Path) -> tuple[SavedCheckpoint | None, Path]:
    """Fetch the best evaluated checkpoint whose files verify; every rank gets the first rank's choice."""
    harness, checkpoints, score = run.harness, run.callbacks.checkpoints, run.spec.task.score
    found: SavedCheckpoint | None = None
    if harness.first:
        valid = checkpoints.valid()
        # Without evaluation rows there is one checkpoint, that of a head that was solved.
        for saved in ranked(valid, score.name, score.mode) if len(run.snapshot.eval) else reversed(valid):
            try:
                folder = checkpoints.open(saved, folder)
            except Damaged:
                continue  # registration reports it, and registers the next best
            found = saved
            break
    chosen = harness.from_first(found.id if found else None)
    if chosen is None or found is not None:
        return found, folder
    saved = next(saved for saved in checkpoints.listed() if saved.id == chosen)
    return saved, checkpoints.open(saved, folder)
