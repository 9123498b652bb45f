"""The examples of a new class: rows as a prediction reads them, of which none names another class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.contracts import Raw, Source, absent, label_text
from regraft.data.cell_parsing import find_value
from regraft.data.rows import Rows, RowWriter
from regraft.errors import DataError
from regraft.serving.batch.input_blocks import BLOCK_ROWS, InputRow, ReadOptions, read_rows, source_named
from regraft.serving.predictor import Predictor
from regraft.serving.row_checks import prediction_columns
from regraft.spec.column_names import Names
from regraft.teaching.request import TeachRequest


def read_examples(predictor: Predictor, request: TeachRequest, scratch: Path) -> Rows:
    """Read the examples; a copy is kept in `scratch`.

    Raises DataError where there are none, for a row that the model cannot read, and for a row of another class.
    """
    task = predictor.adapted.task
    wanted = prediction_columns(task)
    names: dict[str, Names] = {**predictor.column_names, **request.columns}
    target = next(iter(task.target_columns()))
    reading = ReadOptions(
        input=request.rows,
        wanted=wanted,
        check=task.check,
        columns={name: written for name, written in request.columns.items() if name not in task.target_columns()},
        trained={name: written for name, written in predictor.column_names.items() if name in wanted},
        source=_source(request.format),
        bad_rows="fail",
        block_rows=BLOCK_ROWS,
    )
    bad: list[tuple[str, str]] = []
    path = scratch / "examples.arrow"
    with RowWriter(path, wanted) as writer:
        for item in read_rows(reading, scratch / "inputs"):
            if problem := item.problem or _other_class(item, (names.get(target, target), target), request.label):
                bad.append((problem, item.raw.where))
            elif not bad:
                writer.add(item.row, 0)
    if bad:
        more = f" ({len(bad) - 1} more rows cannot be used)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0][0]}{more}", bad[0][1])
    if not writer.rows:
        raise DataError("holds no rows: give one example of the class, better ten", request.rows)
    return Rows(path, wanted)


def _source(written: Any) -> Source | None:
    return written if written is None or isinstance(written, Source) else source_named(written)


def _other_class(item: InputRow, columns: tuple[Names, ...], label: str) -> str | None:
    """Return a message about a row whose own column of labels names another class, or None."""
    for column in columns:
        found = _written_label(item.raw, column)
        if found is not None and found != label:
            return (
                f"its {column} is {found!r}, and the class to teach is {label!r}: give rows of that class alone, or "
                "without a column of labels"
            )
    return None


def _written_label(raw: Raw, column: Names) -> str | None:
    """Return the label that a row has in the file; None without one."""
    values: Mapping[str, Any] = raw.values
    if not isinstance(column, str):
        return None
    cell = find_value(values, column)
    if cell is find_value({}, "") or absent(cell) or not isinstance(cell, str | int | float):
        return None
    return label_text(cell) or None
