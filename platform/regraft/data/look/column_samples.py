"""The columns of files as a look has them: every row is read once, and a sample of the cells is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from regraft.contracts import CellSample, Raw, absent, label_text
from regraft.errors import DataError

MOST_ROWS = 200_000
"""Rows that a look reads; of larger files it says that it has read the first ones."""
_KEPT = 1000
"""Cells of a sample, at most."""
_COUNTED = 2000
"""Different values of a column up to which each is counted."""
_LONGEST = 200


@dataclass
class ReadRows:
    """The rows of files: a sample of each column, and counts of what cannot be used."""

    columns: dict[str, CellSample]
    rows: int
    """Rows that can be read."""
    bad: int = 0
    problem: str = ""
    """What is wrong with the first bad row."""
    ignored: dict[str, int] = field(default_factory=dict)
    """What is passed over, by kind."""
    whole: bool = True
    """Whether every row was read."""


def read_columns(rows: Iterable[Raw], folder: str) -> ReadRows:
    """Read rows and keep a sample of every column. Raises DataError where none can be read."""
    seen: dict[str, _Seen] = {}
    found = ReadRows({}, 0)
    for raw in rows:
        if raw.ignored:
            found.ignored[raw.ignored] = found.ignored.get(raw.ignored, 0) + 1
        elif raw.problem:
            found.bad += 1
            found.problem = found.problem or f"{raw.where}: {raw.problem}"
        elif found.rows >= MOST_ROWS:
            found.whole = False
            break
        else:
            for name, cell in _cells(raw.values):
                seen.setdefault(name, _Seen()).add(found.rows, cell)
            found.rows += 1
    if not found.rows:
        raise DataError(found.problem or "holds no rows: name a file, a folder or a glob of rows", where=folder)
    found.columns = {name: one.sample(name, folder) for name, one in seen.items()}
    return found


def _cells(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the cells of a row by their names, and the values inside of objects by theirs: `translation.en`."""
    for name, cell in values.items():
        inner = cell if isinstance(cell, dict) and cell and not {"bytes", "path"} & set(cell) else {}
        if inner and len(inner) <= 20 and all(isinstance(key, str) for key in inner):
            yield from ((f"{name}.{key}", value) for key, value in inner.items())
        yield str(name), cell


class _Seen:
    """What was seen of one column."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Any]] = []
        self._every = 1
        self._rows = 0
        self._counts: dict[str, int] | None = {}
        self._hashes: set[int] = set()

    def add(self, row: int, cell: Any) -> None:
        """Count a cell, and keep it if its row is in the sample; every second one is dropped when there are many."""
        if absent(cell) or cell == "":
            return
        self._rows += 1
        self._hashes.add(hash(cell if isinstance(cell, str | int | float | bool | bytes) else repr(cell)))
        self._count(cell)
        if row % self._every == 0:
            self._kept.append((row, cell))
            if len(self._kept) > _KEPT:
                self._every *= 2
                self._kept = [one for one in self._kept if one[0] % self._every == 0]

    def _count(self, cell: Any) -> None:
        plain = isinstance(cell, int | float) or (isinstance(cell, str) and len(cell) <= _LONGEST)
        if self._counts is None or not plain:
            self._counts = None
            return
        label = label_text(cell)
        self._counts[label] = self._counts.get(label, 0) + 1
        if len(self._counts) > _COUNTED:
            self._counts = None

    def sample(self, name: str, folder: str) -> CellSample:
        """Return the sample."""
        cells = tuple(cell for _, cell in self._kept)
        return CellSample(name, cells, self._rows, len(self._hashes), self._counts, folder)
