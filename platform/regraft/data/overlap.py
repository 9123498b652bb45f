"""Evaluation rows that are training rows too, counted by the content of their inputs."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Column, Row, Task, columns_of
from regraft.data.rows import Rows

_AT_ONCE = 1 << 16
"""Keys compared at once: all of them would be copied several times."""
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def compared_columns(task: Task) -> dict[str, Column]:
    """Return the columns by which rows are compared: those that are no targets, or all where each is a target."""
    columns, targets = columns_of(task.input_columns()), task.target_columns()
    return {name: column for name, column in columns.items() if name not in targets} or dict(columns)


def content_key(row: Row, columns: Mapping[str, Column]) -> int:
    """Return a number that rows of equal content share; it holds within this process."""
    return hash(tuple([_content(row[name], column) for name, column in columns.items()]))


def count_overlap(train: array[int], evaluation: array[int]) -> int:
    """Return how many of the evaluation rows' keys are keys of training rows; sorts the training keys in place."""
    if not train or not evaluation:
        return 0
    known, asked = np.frombuffer(train, np.int64), np.frombuffer(evaluation, np.int64)
    known.sort()
    found = 0
    for start in range(0, len(asked), _AT_ONCE):
        chunk = asked[start : start + _AT_ONCE]
        places = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
        found += int((known[places] == chunk).sum())
    return found


def overlap_note(overlap: int, rows: int, side: str = "evaluation", other: str = "training") -> tuple[str, ...]:
    """Return a sentence for the run's notes if rows of a side are rows of another one, else nothing."""
    if not overlap:
        return ()
    article = "an" if other[0] in "aeiou" else "a"
    are = f"{side} rows is {article} {other} row" if overlap == 1 else f"{side} rows are {other} rows"
    advice = "metrics are better than they will be on new rows; leave these rows out of one side"
    return (f"{overlap:,} of {rows:,} {are} too, by the content of the inputs: {advice}",)


def keys_of(rows: Rows, columns: Mapping[str, Column]) -> NDArray[np.int64]:
    """Return the key of each stored row, (rows,). Raises OSError or an error of the store if a file is gone."""
    return np.fromiter((content_key(rows.stored(index), columns) for index in range(len(rows))), np.int64, len(rows))


def known_by_content(rows: Rows, columns: Mapping[str, Column]) -> bool:
    """Return whether files of the rows are stored with their hashes; those of the first edition are not."""
    files = [name for name, column in columns.items() if column.by_reference]
    first = rows.stored(0) if files and len(rows) else {}
    return all(
        isinstance(value, bytes) or bool(getattr(value, "sha256", "")) for name, value in first.items() if name in files
    )


def _content(value: Any, column: Column) -> str:
    """Return a value's content as text; of a file its bytes count, and not its name where these are known."""
    if not column.by_reference:
        return value if isinstance(value, str) else _canonical(column.identity(value))
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return str(getattr(value, "sha256", "")) or _canonical(column.identity(value))
