"""Checks of the rows of a prediction, and the batches that they form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regraft.contracts import BadCell, Column, Example, Kind, Row, Task, columns_of
from regraft.errors import DataError
from regraft.plugins import unknown

MAX_BATCH_ROWS = 32
MAX_BATCH_NUMBERS = 1 << 23
"""Input numbers in a batch: 32 images of 224 x 224, or 2 of DETR's size, so that memory stays bounded."""
WINDOW = 256
"""Rows that are encoded together, and sorted into batches."""


def prediction_columns(task: Task) -> dict[str, Kind]:
    """Return the columns that a prediction needs, with their kinds."""
    targets = task.target_columns()
    return {name: kind for name, kind in task.input_columns().items() if name not in targets}


def check_rows(task: Task, rows: Sequence[str | Mapping[str, Any]]) -> list[Row]:
    """Return the rows with the task's own columns and `row`, their index; targets are dropped.

    A string is accepted as a row if the only column allows it (text, words, image). Raises DataError, which names the
    first row that does not fit.
    """
    if isinstance(rows, str | bytes | Mapping):
        raise DataError(f"one {type(rows).__name__} is given; allowed is a list of rows: write [row]", where="rows")
    wanted = columns_of(prediction_columns(task))
    return [_checked(task, wanted, number, row) for number, row in enumerate(rows)]


def _checked(task: Task, wanted: Mapping[str, Column], number: int, given: Any) -> Row:
    where = f"row {number}"
    if not isinstance(given, Mapping):
        given = _named(wanted, given, where)
    absent = [name for name in wanted if given.get(name) is None]
    if absent:
        raise DataError(f"column {absent[0]!r} is missing; a row has {', '.join(wanted)}", where=where)
    for name in given:
        if name not in task.input_columns() and name != "row":
            raise DataError(unknown("column", str(name), sorted(wanted)), where=where)
    row = {name: _accepted(column, name, given[name], where) for name, column in wanted.items()} | {"row": number}
    if problem := task.check(row):
        raise DataError(problem, where=where)
    return row


def _named(wanted: Mapping[str, Column], given: Any, where: str) -> Mapping[str, Any]:
    bare = [name for name, column in wanted.items() if column.bare]
    if len(wanted) == 1 and bare and isinstance(given, str | Path | bytes):
        return {bare[0]: given}
    example = ", ".join(f"{name!r}: ..." for name in wanted)
    raise DataError(f"a {type(given).__name__} is given; this task's row is {{{example}}}", where=where)


def _accepted(column: Column, name: str, value: Any, where: str) -> Any:
    try:
        return column.accept(value)
    except BadCell as error:
        raise DataError(error.of(f"column {name!r}"), where=where) from None


def batches(
    task: Task, rows: Sequence[Row], encode: Callable[[Row], Example | None]
) -> Iterator[tuple[list[int], list[Example]]]:
    """Yield positions and examples of each batch: rows of like lengths, so that batches hold little padding.

    Rows for which `encode` returns None are omitted. Examples with tensors (images) share a batch only with others of
    the same shapes: padding would change what a model sees at an image's border, mask or not, and an answer must not
    depend on the other rows.
    """
    order = sorted(range(len(rows)), key=lambda position: task.length(rows[position]))
    for start in range(0, len(order), WINDOW):
        alike: dict[tuple[Any, ...], list[tuple[int, Example]]] = defaultdict(list)
        for position in order[start : start + WINDOW]:
            example = _encoded(rows[position], encode)
            if example is None:
                continue
            alike[_shapes(example)].append((position, example))
        for group in alike.values():
            for part in _parts(sorted(group, key=lambda item: _numbers(item[1]))):
                yield [position for position, _ in part], [example for _, example in part]


def _encoded(row: Row, encode: Callable[[Row], Example | None]) -> Example | None:
    try:
        return encode(row)
    except DataError as error:
        raise DataError(error.message, where=f"row {row['row']}") from error


def _parts(group: list[tuple[int, Example]]) -> Iterator[list[tuple[int, Example]]]:
    """Yield consecutive parts within the limits; an example that exceeds them is alone in a part."""
    part: list[tuple[int, Example]] = []
    for item in group:  # sorted by size: the last is the largest, and the others are padded to it
        if part and (len(part) == MAX_BATCH_ROWS or (len(part) + 1) * _numbers(item[1]) > MAX_BATCH_NUMBERS):
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def _shapes(example: Example) -> tuple[Any, ...]:
    """Return the shapes of tensors, which examples of a batch must share. Lists (token ids) are padded instead."""
    return tuple((name, *value.shape) for name, value in _inputs(example) if isinstance(value, torch.Tensor))


def _numbers(example: Example) -> int:
    """Return the number of input numbers in an example."""
    return sum(value.numel() if isinstance(value, torch.Tensor) else len(value) for _, value in _inputs(example))


def _inputs(example: Example) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(example.items()):
        if name != "labels" and isinstance(value, torch.Tensor | list | tuple):
            yield name, value
