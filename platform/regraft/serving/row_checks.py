"""Checks of the rows of a prediction, and the batches that they form."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from regraft.contracts import BadCell, Column, Example, Kind, Row, Task, columns_of, windows_of
from regraft.errors import DataError
from regraft.plugins import unknown
from regraft.serving.python_rows import as_mapping, is_missing, listed
from regraft.serving.training_names import names_of_cells, shown_columns, with_task_names
from regraft.spec.column_names import Names
from regraft.units import with_article

MAX_BATCH_ROWS = 32
MAX_BATCH_NUMBERS = 1 << 23
"""Input numbers in a batch: 32 images of 224 x 224, or 2 of DETR's size, so that memory stays bounded."""
WINDOW = 256
"""Rows that are encoded together, and sorted into batches."""


def prediction_columns(task: Task) -> dict[str, Kind]:
    """Return the columns that a prediction needs, with their kinds."""
    targets = task.target_columns()
    return {name: kind for name, kind in task.input_columns().items() if name not in targets}


def check_rows(task: Task, rows: Any, names: Mapping[str, Names] | None = None) -> list[Row]:
    """Return the rows with the task's own columns and `row`, their index; targets are dropped.

    `rows` is anything that `python_rows.listed` takes. A value is accepted as a row if the only column allows it (text,
    words, image, conversation). `names` are the columns' names in the training files, which are accepted too. Raises
    DataError, which names the first row that does not fit.
    """
    check = _RowCheck(task, columns_of(prediction_columns(task)), dict(names or {}))
    given, is_table = listed(rows, check.wanted, names_of_cells(check.names))
    return [check.row(number, row, is_table=is_table) for number, row in enumerate(given)]


def with_column(task: Task, problem: str) -> str:
    """Return a problem of a row with the column that it is about, unless it names one or there are several."""
    names = list(prediction_columns(task))
    named = any(re.search(rf"\b{re.escape(name)}\b", problem) for name in names)
    return problem if named or len(names) != 1 else f"column {names[0]!r}: {problem}"


@dataclass(frozen=True)
class _RowCheck:
    """Checks the rows that a Python caller gives for a task."""

    task: Task
    wanted: Mapping[str, Column]
    names: Mapping[str, Names]
    """The columns' names in the training files."""

    def row(self, number: int, given: Any, *, is_table: bool) -> Row:
        """Return a row as the task reads it; a table may have other columns beside. Raises DataError."""
        where = f"row {number}"
        mapping = as_mapping(given)
        values = self._named(given, where) if mapping is None else self._renamed(mapping, where)
        missing = [name for name in self.wanted if is_missing(values.get(name))]
        if missing:
            shown = shown_columns(self.wanted, self.names)
            raise DataError(f"column {missing[0]!r} is missing; a row has {shown}", where=where)
        if not is_table:
            self._refuse_unknown(values, where)
        row = {name: _accepted(column, name, values[name], where) for name, column in self.wanted.items()}
        row["row"] = number
        if problem := self.task.check(row):
            raise DataError(with_column(self.task, problem), where=where)
        return row

    def _renamed(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a row with values under the task's names, where it has those of the training files."""
        return with_task_names(
            given,
            self.names,
            lambda name, cells: _joined(self.wanted[name], cells, where) if name in self.wanted else None,
        )

    def _refuse_unknown(self, values: Mapping[str, Any], where: str) -> None:
        known = {"row", *self.task.input_columns(), *names_of_cells(self.names)}
        for name in values:
            if name not in known:
                raise DataError(unknown("column", str(name), sorted(self.wanted)), where=where)

    def _named(self, given: Any, where: str) -> dict[str, Any]:
        """Return a bare value as a row of the only column."""
        columns = list(self.wanted.items())
        if len(columns) == 1 and columns[0][1].bare and not isinstance(given, bool | int | float | None):
            return {columns[0][0]: given}
        example = ", ".join(f"{name!r}: ..." for name in self.wanted)
        raise DataError(f"{with_article(type(given).__name__)} is given; this task's row is {{{example}}}", where=where)


def _joined(column: Column, cells: Mapping[str, Any], where: str) -> Any:
    """Return the value that several columns of the training files make."""
    try:
        return column.join(cells, os.getcwd())
    except BadCell as error:
        raise DataError(str(error), where=where) from None


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
            example = _encoded(task, rows[position], encode)
            if example is None:
                continue
            alike[_shapes(example)].append((position, example))
        for group in alike.values():
            for part in _parts(sorted(group, key=lambda item: _numbers(item[1]))):
                yield [position for position, _ in part], [example for _, example in part]


def _encoded(task: Task, row: Row, encode: Callable[[Row], Example | None]) -> Example | None:
    try:
        return encode(row)
    except DataError as error:
        raise DataError(with_column(task, error.message), where=f"row {row['row']}") from error


def _parts(group: list[tuple[int, Example]]) -> Iterator[list[tuple[int, Example]]]:
    """Yield consecutive parts within the limits; an example that exceeds them is alone in a part."""
    part: list[tuple[int, Example]] = []
    windows = 0
    for item in group:  # sorted by size: the last is the largest, and the others are padded to it
        more = len(windows_of(item[1]))
        if part and (windows + more > MAX_BATCH_ROWS or (len(part) + 1) * _numbers(item[1]) > MAX_BATCH_NUMBERS):
            yield part
            part, windows = [], 0
        part.append(item)
        windows += more
    if part:
        yield part


def _shapes(example: Example) -> tuple[Any, ...]:
    """Return the shapes of tensors, which examples of a batch must share. Lists (token ids) are padded instead."""
    return tuple((name, *value.shape) for name, value in _inputs(example) if isinstance(value, torch.Tensor))


def _numbers(example: Example) -> int:
    """Return the number of input numbers in an example."""
    return sum(map(_count, (value for _, value in _inputs(example))))


def _count(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    # The texts of a row are padded to the longest of them.
    nested = bool(value) and isinstance(value[0], list | tuple)
    return len(value) * max(map(len, value)) if nested else len(value)


def _inputs(example: Example) -> Iterator[tuple[str, Any]]:
    for window in windows_of(example):
        for name, value in sorted(window.items()):
            if name != "labels" and isinstance(value, torch.Tensor | list | tuple):
                yield name, value
