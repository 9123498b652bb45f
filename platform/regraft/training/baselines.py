"""The baselines that a run's metrics are compared with: the majority class, and nearest centroid on the frozen base."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import Base
from regraft.contracts import BaselineMeasured, Method, Note
from regraft.data.snapshot import Snapshot
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.store.runs import RunDocument
from regraft.training.closed_form import solve_head
from regraft.training.evaluate import evaluate, packed
from regraft.training.harness import Harness

CENTROID = "prototypes"
"""The method whose run *is* the nearest-centroid baseline."""


def measure_baselines(
    spec: RunSpec, base: Base, snapshot: Snapshot, harness: Harness, *, document: RunDocument
) -> None:
    """Measure the baselines once per run and store them in the run's document; called on every rank."""
    if not spec.training.baselines or "baselines" not in spec.task.supports or spec.method.closed_form:
        return
    if harness.from_first("baselines" in document.read() if harness.first else None):
        return
    found: dict[str, Any] = {"majority": majority(snapshot)}
    right = majority_correct(snapshot)
    harness.emit(BaselineMeasured("majority", found["majority"]))
    try:
        found["nearest_centroid"], correct = nearest_centroid(spec, base, snapshot, harness)
    except Unsupported as error:
        harness.emit(Note(f"no nearest-centroid baseline: {error}"))
        correct = ""
    else:
        harness.emit(BaselineMeasured("nearest_centroid", found["nearest_centroid"]))
    if harness.first:
        document.update(baselines=found, baseline_correct=correct, majority_correct=right)


def majority(snapshot: Snapshot) -> dict[str, float]:
    """Return the accuracy of always answering the most frequent training label."""
    return {"accuracy": snapshot.eval.counts.get(_most_frequent(snapshot), 0) / len(snapshot.eval)}


def majority_correct(snapshot: Snapshot) -> str:
    """Return the evaluation rows that have the most frequent training label, as hex, one bit per row."""
    return np.packbits(snapshot.eval.labelled(_most_frequent(snapshot))).tobytes().hex()


def _most_frequent(snapshot: Snapshot) -> str:
    counts = snapshot.train.counts
    return max(sorted(counts), key=lambda name: counts[name])


def nearest_centroid(spec: RunSpec, base: Base, snapshot: Snapshot, harness: Harness) -> tuple[dict[str, float], str]:
    """Return the metrics of a classifier by class means of the base's features, and its correct rows as hex."""
    method = Method.lookup(CENTROID)()
    frozen = adapt(base, Adaptation(task=spec.task, method=method, labels=snapshot.labels, seed=spec.training.seed))
    frozen.model.to(harness.device)
    size = max(32, spec.training.batch_size)
    solve_head(frozen, method, snapshot.train, harness, size=size)
    metrics, records = evaluate(frozen, snapshot.eval, harness, size=size, autocast=nullcontext())
    return metrics, packed(records)
