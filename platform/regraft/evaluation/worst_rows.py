"""The rows with the largest error, each with the model's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regraft.contracts import Answer, Record, Row
from regraft.data.rows import Rows
from regraft.evaluation.row_views import RowView, image_file_name, view_parts
from regraft.evaluation.thumbnails import Thumbnails
from regraft.serving.predictor import Predictor
from regraft.serving.row_checks import prediction_columns

_MAX_CHARACTERS = 4000


@dataclass(frozen=True)
class WorstRows:
    """The rows with the largest error."""

    row_views: tuple[RowView, ...]
    wrong: int | None
    """Number of rows answered wrongly, among all rows; None if the task does not class answers as right or wrong."""
    left_out: int = 0
    """Number of images beyond the page's budget of bytes."""


def worst_rows(predictor: Predictor, rows: Rows, records: Mapping[int, Record], most: int) -> WorstRows:
    """Return at most `most` rows in descending order of their records' `error`; none if the task records no errors.

    If answers are right or wrong and some are wrong, only wrong ones are returned.
    """
    graded = all("correct" in record for record in records.values())
    wrong = sum(not record["correct"] for record in records.values()) if graded else None
    chosen = _chosen(records, most, only_wrong=bool(wrong))
    thumbnails = Thumbnails()
    chosen_rows = [rows.row(index) for index in chosen]
    row_views = tuple(
        RowView(
            row=index,
            error=float(records[index]["error"]),
            wrong=not records[index].get("correct", False),
            parts=view_parts(row, answer, thumbnails, predictor.adapted),
            answer=_shortened(answer),
            file=image_file_name(rows.stored(index), predictor.adapted.task.stored_columns()),
        )
        for index, row, answer in zip(chosen, chosen_rows, _answers(predictor, chosen_rows), strict=True)
    )
    return WorstRows(row_views, wrong, thumbnails.left_out)


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[Answer]:
    """Predict the rows as for a user; return empty answers if the task has no targets to compare them with.

    Answers of a task that packs rows belong to rows of the files, not to the packed rows shown here: empty too.
    """
    task = predictor.adapted.task
    if not rows or task.packs or not task.target_columns():
        return [{} for _ in rows]
    names = prediction_columns(task)
    return predictor.predict([{name: row[name] for name in names} for row in rows])


def _shortened(value: Any) -> Any:
    """Return an answer in readable form: long values (an image in base64) are replaced by their length."""
    if isinstance(value, Mapping):
        return {str(key): _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    long = isinstance(value, bytes) or (isinstance(value, str) and len(value) > _MAX_CHARACTERS)
    return f"({len(value):,} left out)" if long else value


def _chosen(records: Mapping[int, Record], most: int, *, only_wrong: bool) -> list[int]:
    ranked = [
        (float(record["error"]), index)
        for index, record in records.items()
        if record.get("error") is not None
        and math.isfinite(record["error"])
        and record["error"] > 0
        and not (only_wrong and record["correct"])
    ]
    return [index for _, index in sorted(ranked, key=lambda pair: (-pair[0], pair[1]))[:most]]
