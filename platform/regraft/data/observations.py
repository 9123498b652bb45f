"""Facts about data that are not errors: each kind is counted, and reported once with an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from regraft.contracts import Column, Row, Task
from regraft.contracts.remark import Measured

Remarker = Callable[[Row], str | None]


class Observations:
    """Counts of what was noticed while rows were read, by kind, with the first place of each."""

    def __init__(self) -> None:
        self._passed_over: dict[str, tuple[int, str]] = {}
        self._remarks: dict[str, tuple[int, str]] = {}
        self._largest: dict[str, Measured] = {}

    def pass_over(self, kind: str, where: str) -> None:
        """Count one more thing that is not a row; `kind` is a plural noun phrase, such as `files named *.xmp`."""
        _count(self._passed_over, kind, where)

    def remark(self, text: str, where: str) -> None:
        """Count one more row about which `text` is to be said."""
        _count(self._remarks, text, where)
        if isinstance(text, Measured) and text.number >= self._largest.get(text, text).number:
            self._largest[text] = text

    def lines(self) -> tuple[str, ...]:
        """Return one sentence for each kind, in the order in which they were met."""
        passed = [f"passed over {kind}: {count:,}, the first {at}" for kind, (count, at) in self._passed_over.items()]
        rows = [
            f"{text}: {_rows(count)}, the first {at}"
            for kind, (count, at) in self._remarks.items()
            if (text := self._with_largest(kind))
        ]
        return (*passed, *rows)

    def _with_largest(self, text: str) -> str:
        """Return a remark with the largest number over all rows; empty when that shows that all is well."""
        largest = self._largest.get(text)
        if largest is None:
            return text
        return largest.with_number() if largest.number < largest.limit else ""


def remarks(task: Task, row: Row, columns: Mapping[str, Column]) -> list[str]:
    """Return what the task and the kinds of columns have to say about a usable row."""
    return [text for remark in remarkers(task, columns) if (text := remark(row))]


def remarkers(task: Task, columns: Mapping[str, Column]) -> list[Remarker]:
    """Return the functions that may remark on a row: for most tasks there are none, and rows cost no calls."""
    found: list[Remarker] = [] if type(task).remark is Task.remark else [task.remark]
    remarking = {name: column for name, column in columns.items() if type(column).remark is not Column.remark}
    return [*found, *(partial(_of_column, name, column) for name, column in remarking.items())]


def _of_column(name: str, column: Column, row: Row) -> str | None:
    return column.remark(row[name]) if row.get(name) is not None else None


def _count(found: dict[str, tuple[int, str]], kind: str, where: str) -> None:
    count, first = found.get(kind, (0, where))
    found[kind] = (count + 1, first)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
