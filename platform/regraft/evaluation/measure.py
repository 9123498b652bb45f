"""One pass of a model over all rows, in batches of similar length; records and metrics keep the rows' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from regraft.contracts import Example, Progress, Record, Row, RowsEvaluated
from regraft.data.rows import Rows
from regraft.errors import DataError
from regraft.evaluation.labelled_rows import LabelledRows
from regraft.serving.predictor import Predictor, to_device
from regraft.serving.row_checks import batches


@dataclass(frozen=True)
class Measurement:
    """One model's records and metrics."""

    predictor: Predictor
    records: dict[int, Record]
    """Record of each row by the row's index, in order; rows that could not be encoded are absent."""
    failed: dict[int, str]
    """Rows that could not be encoded (a truncated image, for example), with the reason."""
    metrics: dict[str, float]

    @property
    def record_list(self) -> list[Record]:
        """The records in the order of the rows."""
        return list(self.records.values())

    def metrics_of(self, records: Sequence[Record]) -> Mapping[str, float]:
        """Compute the metrics of other records of this model."""
        return self.predictor.adapted.task.metrics(records, self.predictor.adapted.context)


class RowsOnAccess(Sequence[dict[str, Any]]):
    """Rows as the snapshot stores them, read on access, so that ordering them downloads no image from S3."""

    def __init__(self, rows: Rows, indices: Sequence[int] | None = None) -> None:
        self._rows = rows
        self._indices = range(len(rows)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._rows.stored(self._indices[index])


def measure(
    predictor: Predictor, labelled: LabelledRows, progress: Progress | None = None, *, skip: bool = False
) -> Measurement:
    """Run a model on all rows and compute its metrics.

    `progress` receives a RowsEvaluated after each batch. Raises DataError for the first row that cannot be encoded;
    with `skip`, only if no row can be.
    """
    records, failed = _records(predictor, labelled.rows, progress, skip=skip)
    if not records:
        raise DataError(f"no row can be used: {next(iter(failed.values()))}", where=labelled.path)
    task, context = predictor.adapted.task, predictor.adapted.context
    metrics = {name: float(value) for name, value in task.metrics(list(records.values()), context).items()}
    return Measurement(predictor, records, failed, metrics)


def _records(
    predictor: Predictor, rows: Rows, progress: Progress | None, *, skip: bool
) -> tuple[dict[int, Record], dict[int, str]]:
    adapted = predictor.adapted
    task, context = adapted.task, adapted.context
    records: dict[int, Record] = {}
    failed: dict[int, str] = {}

    def encode(row: Row) -> Example | None:
        try:
            return task.encode(rows.row(row["row"]), context, train=False)
        except DataError as error:
            if not skip:
                raise
            failed[int(row["row"])] = str(error)
            return None

    for positions, examples in batches(task, RowsOnAccess(rows), encode):
        batch = to_device(task.collate(examples, context), predictor.device)
        with torch.inference_mode():
            output = task.eval_forward(adapted.forward, adapted.model, batch, context)
            records.update(zip(positions, task.records(output, batch, context), strict=True))
        if progress:
            progress(RowsEvaluated(len(records) + len(failed), len(rows), predictor.name))
    return completed(predictor, records), failed


def completed(predictor: Predictor, records: Mapping[int, Record]) -> dict[int, Record]:
    """Return the records of all rows in the order of the rows, completed by the task."""
    ordered = dict(sorted(records.items()))
    if not ordered:
        return {}
    adapted = predictor.adapted
    found = adapted.task.complete_records(list(ordered.values()), adapted.context)
    return dict(zip(ordered, found, strict=True))
