"""Which rows went worst, and what did the model say of each?"""

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

_LONG = 4000


@dataclass(frozen=True)
class WorstRows:
    """The rows with the largest error."""

    row_views: tuple[RowView, ...]
    wrong: int | None
    """Rows that were answered wrongly, of all; None where a row is not simply right or wrong."""
    left_out: int = 0
    """Pictures for which the page had no room."""


def worst_rows(predictor: Predictor, rows: Rows, records: Mapping[int, Record], most: int) -> WorstRows:
    """At most `most` rows by their records' `error`, the largest first; none where the task tells no errors.

    Where rows can be right, wrong ones alone are shown, as long as there are any.
    """
    counted = all("correct" in record for record in records.values())
    wrong = sum(not record["correct"] for record in records.values()) if counted else None
    chosen = _chosen(records, most, only_wrong=bool(wrong))
    thumbnails = Thumbnails()
    shown = [rows.row(index) for index in chosen]
    row_views = tuple(
        RowView(
            row=index,
            error=float(records[index]["error"]),
            wrong=not records[index].get("correct", False),
            parts=view_parts(row, answer, thumbnails, predictor.adapted),
            answer=_small(answer),
            file=image_file_name(rows.stored(index), predictor.adapted.task.stored_columns()),
        )
        for index, row, answer in zip(chosen, shown, _answers(predictor, shown), strict=True)
    )
    return WorstRows(row_views, wrong, thumbnails.left_out)


def _answers(predictor: Predictor, rows: Sequence[Row]) -> list[Answer]:
    """What a user would get for each; nothing where there is no truth to set it against.

    A task that packs its rows has answers to those of the files, not to those that it made of them.
    """
    task = predictor.adapted.task
    if not rows or task.packs or not task.target_columns():
        return [{} for _ in rows]
    wanted = prediction_columns(task)
    return predictor.predict([{name: row[name] for name in wanted} for row in rows])


def _small(value: Any) -> Any:
    """An answer for a file to be read: what is long (a picture in base64) is left out."""
    if isinstance(value, Mapping):
        return {str(key): _small(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_small(item) for item in value]
    long = isinstance(value, bytes) or (isinstance(value, str) and len(value) > _LONG)
    return f"({len(value):,} left out)" if long else value


def _chosen(records: Mapping[int, Record], most: int, *, only_wrong: bool) -> list[int]:
    told = [
        (float(record["error"]), index)
        for index, record in records.items()
        if record.get("error") is not None
        and math.isfinite(record["error"])
        and record["error"] > 0
        and not (only_wrong and record["correct"])
    ]
    return [index for _, index in sorted(told, key=lambda pair: (-pair[0], pair[1]))[:most]]
