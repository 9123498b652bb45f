"""Every row through the model once, in batches of like length: what the task keeps of each, in the rows' order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from regraft.contracts import Example, Progress, Record, Row, RowsEvaluated
from regraft.data.rows import Rows
from regraft.errors import DataError
from regraft.serving.predictor import Predictor, to_device
from regraft.serving.row_checks import batches


@dataclass(frozen=True)
class Measurement:
    """What came of the rows."""

    records: dict[int, Record]
    """By the row's index, in order; those that could not be encoded are absent."""
    failed: dict[int, str]
    """Why a row could not be encoded: an image that is cut short, say."""


class _StoredRows(Sequence[dict[str, Any]]):
    """Rows of a snapshot as they are kept, each read when it is asked for: ordering them fetches no image from S3."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows.stored(index)


def measure_rows(
    predictor: Predictor, rows: Rows, progress: Progress | None = None, *, skip: bool = False
) -> Measurement:
    """One record a row; DataError for the first that cannot be encoded, unless such rows are to be skipped.

    `progress` receives a RowsEvaluated after each batch.
    """
    adapted = predictor.adapted
    task, context = adapted.task, adapted.context
    found: dict[int, Record] = {}
    failed: dict[int, str] = {}

    def encode(row: Row) -> Example | None:
        try:
            return task.encode(rows.row(row["row"]), context, train=False)
        except DataError as error:
            if not skip:
                raise
            failed[int(row["row"])] = str(error)
            return None

    for positions, examples in batches(task, _StoredRows(rows), encode):
        batch = to_device(task.collate(examples, context), predictor.device)
        with torch.inference_mode():
            output = task.eval_forward(adapted.forward, adapted.model, batch, context)
            found.update(zip(positions, task.records(output, batch, context), strict=True))
        if progress:
            progress(RowsEvaluated(len(found) + len(failed), len(rows), predictor.name))
    return Measurement(dict(sorted(found.items())), failed)
