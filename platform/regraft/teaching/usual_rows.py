"""Teaching a detector that rows are usual: a false alarm becomes a new version that raises none for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regraft.bases.delta import delta_tensors
from regraft.contracts import Progress, Record, Row, note
from regraft.data.rows import Rows
from regraft.errors import NotFound, RequestError, Unsupported
from regraft.evaluation.labelled_rows import read_labelled
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.training_rows import training_snapshot
from regraft.serving.predictor import Predictor, to_device
from regraft.store.atomic_files import writing_locally
from regraft.store.registry import Version
from regraft.teaching.effect import ClassEffect, refuse_loss
from regraft.teaching.examples import read_examples
from regraft.teaching.publication import publish_changed
from regraft.teaching.request import TeachRequest

_AT_ONCE = 32
MOST_ROWS = 2000
"""Rows on which the effect is measured."""


def teaches_usual(predictor: Predictor) -> bool:
    """Return whether a model learns that further rows are usual, in place of classes."""
    adapted = predictor.adapted
    return adapted.method.learns_more and bool(adapted.task.usual_labels())


@dataclass(frozen=True, eq=False)
class MeasuredRecords:
    """Records of the same rows before or after."""

    source: str
    rows: int
    records: Sequence[Record]


def teach_usual(
    predictor: Predictor, request: TeachRequest, progress: Progress | None
) -> tuple[Version, dict[str, Any]]:
    """Publish a version for which the rows of the request are usual; return it with what its lineage holds.

    Raises Unsupported for a class that no row of this model has, RequestError where all rows are usual already, and
    where more than `max_loss` points of a kind's recall would be lost.
    """
    _refuse_other_class(predictor, request)
    with tempfile.TemporaryDirectory(prefix="regraft-teach-") as scratch, writing_locally(Path(scratch)):
        rows = read_examples(predictor, request, Path(scratch))
        beside = _rows_to_measure(predictor, request, Path(scratch))
        before = _measured(predictor, *beside) if beside else None
        changed = _learn(predictor, rows)
        after = _measured(predictor, *beside) if beside else None
    if not any(changed):
        raise RequestError(
            f"{predictor.name} takes {'all these rows' if len(changed) > 1 else 'this row'} for usual already",
            where="rows",
        )
    if not all(changed):
        note(progress, f"{changed.count(0)} of the {len(changed)} rows are usual already, and change nothing")
    effect = _effects(predictor, before, after)
    refuse_loss(effect, request.max_loss, predictor.name)
    facts: dict[str, Any] = {
        "class": request.label,
        "from": predictor.fetched.version.version,
        "rows": len(changed),
        "changed": sum(changed),
        "moved": sum(_moved(before, after)),
        "measured_on": {} if after is None else {"source": after.source, "rows": len(after.records), "of": after.rows},
        "max_loss": request.max_loss,
        "effect": [one.document() for one in effect],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    context, task = predictor.adapted.context, predictor.adapted.task
    metrics = None if after is None else {name: float(v) for name, v in task.metrics(after.records, context).items()}
    tensors = {name: value.detach().cpu() for name, value in delta_tensors(predictor.adapted).items()}
    return publish_changed(predictor.fetched, tensors, facts, metrics=metrics), facts


def _refuse_other_class(predictor: Predictor, request: TeachRequest) -> None:
    labels = predictor.adapted.task.usual_labels()
    if request.label.casefold() not in {label.casefold() for label in labels}:
        raise Unsupported(
            f"{predictor.name} learns what is usual, and has no classes: --class {labels[0]} teaches it that rows are. "
            "Train it again, with rows of the new class among those to evaluate, to measure how many of them it finds",
            where=predictor.name,
        )


def _learn(predictor: Predictor, rows: Rows) -> list[int]:
    """Adapt the fitted layer to each row, and return how much of it changed for each.

    A row that is usual once others were learned changes nothing.
    """
    adapted = predictor.adapted
    layer = adapted.fitted_layer()
    largest = adapted.task.largest_usual(layer)
    if largest is None:
        return [0] * len(rows)
    with torch.no_grad():
        return [
            changed
            for features in _features(predictor, rows)
            for changed in adapted.method.learn(layer, features, largest)
        ]


def _features(predictor: Predictor, rows: Rows) -> Iterator[Tensor]:
    """Yield what the fitted layer reads of each row, (1, ...): pictures may differ in size."""
    adapted = predictor.adapted
    targets = adapted.task.target_columns()
    for index in range(len(rows)):
        row = {name: value for name, value in rows.row(index).items() if name not in targets}
        batch = adapted.task.collate([adapted.task.encode(row, adapted.context, train=False)], adapted.context)
        yield adapted.features(to_device(batch, predictor.device))


def _rows_to_measure(predictor: Predictor, request: TeachRequest, scratch: Path) -> tuple[str, Rows] | None:
    """Return labelled rows that are given, or those that the version was evaluated on; None where there are none."""
    if request.evaluation is not None:
        options = EvaluationOptions(output=scratch / "out", columns=dict(request.columns), format=None)
        return "given", read_labelled(predictor, request.evaluation, scratch / "given", options).rows
    try:
        return "snapshot", training_snapshot(predictor.fetched.version.store, predictor).eval
    except NotFound:
        return None


def _measured(predictor: Predictor, source: str, rows: Rows) -> MeasuredRecords:
    adapted = predictor.adapted
    task, context = adapted.task, adapted.context
    chosen = range(0, len(rows), max(1, -(-len(rows) // MOST_ROWS)))
    records: list[Record] = []
    with torch.inference_mode():
        for index in chosen:
            row: Row = rows.row(index)
            batch = to_device(task.collate([task.encode(row, context, train=False)], context), predictor.device)
            output = task.eval_forward(adapted.forward, adapted.model, batch, context)
            records += deepcopy(task.records(output, batch, context))
    return MeasuredRecords(source, len(rows), records)


def _moved(before: MeasuredRecords | None, after: MeasuredRecords | None) -> Iterator[bool]:
    """Yield for each measured row whether it was right before and is not afterwards."""
    if before is not None and after is not None:
        for one, other in zip(before.records, after.records, strict=True):
            yield bool(one.get("correct")) and not other.get("correct")


def _effects(predictor: Predictor, before: MeasuredRecords | None, after: MeasuredRecords | None) -> list[ClassEffect]:
    """Return the share of right answers of each kind of rows, before and after."""
    if before is None or after is None:
        return []
    kinds = predictor.adapted.task.kinds_of(before.records)
    found = []
    for kind in sorted(set(kinds)):
        own = [number for number, one in enumerate(kinds) if one == kind]
        shares = [sum(part.records[number]["correct"] for number in own) / len(own) for part in (before, after)]
        found.append(ClassEffect(kind, len(own), *shares))
    return found
