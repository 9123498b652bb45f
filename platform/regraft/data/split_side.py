"""One side of the split while it is written, and the rows that cannot be used."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Column
from regraft.data.rows import RowWriter
from regraft.errors import DataError

_SHOWN = 5
"""Bad rows that an error message lists."""
_RECORDED = 100
"""Bad rows whose messages are stored with the run."""


class SplitRow(NamedTuple):
    """A checked row, ready to be appended to one side of the split."""

    values: Mapping[str, Any]
    length: int
    """Its cost by the task's measure."""
    identity: bytes
    """The row's contribution to the fingerprint."""
    where: str
    """file:row, for messages."""
    group: str | None = None
    inputs: int = 0
    """The key of its inputs, by which `overlap` compares the sides."""


class SplitSide:
    """Rows of one side: written, hashed in their order, their labels and groups counted."""

    def __init__(
        self, name: str, writer: RowWriter, columns: Mapping[str, Column], positions: TextIO | None = None
    ) -> None:
        """`columns` are the kinds of the rows' columns; `positions` gets a line for each row, its file and number.

        Positions are needed only if rows may be dropped later, by a message that names them.
        """
        self.name = name
        self.groups: dict[str, str] = {}
        """First position (file:row) of each group."""
        self.restart(writer, columns, positions)

    def restart(self, writer: RowWriter, columns: Mapping[str, Column], positions: TextIO | None = None) -> None:
        """Start again with other files, as if no row had been added; groups are kept."""
        self._positions = positions
        self._writer = writer
        self._labelled = {name: column for name, column in columns.items() if column.classes}
        self.hash = hashlib.sha256()
        self.labels: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """First position (file:row) of each label."""
        self.inputs = array("q")
        """The key of each row's inputs."""
        self._belongs = array("q")

    @property
    def rows(self) -> int:
        """Number of rows added so far."""
        return self._writer.rows

    @property
    def row_groups(self) -> NDArray[np.int64]:
        """The key of each row's group; rows without one belong together where they are equal."""
        return np.array(self._belongs, dtype=np.int64)

    def add(self, row: SplitRow) -> None:
        """Append a row."""
        self._writer.add(row.values, row.length)
        if self._positions:
            self._positions.write(row.where.replace("\n", " ") + "\n")
        self.hash.update(row.identity)
        self.inputs.append(row.inputs)
        together = row.identity if row.group is None else row.group.encode("utf-8", "surrogatepass")
        self._belongs.append(int.from_bytes(hashlib.sha256(together).digest()[:8], "big", signed=True))
        for label in row_labels(row.values, self._labelled):
            self.labels[label] += 1
            self.first.setdefault(label, row.where)
        if row.group is not None:
            self.groups.setdefault(row.group, row.where)


class BadRows:
    """Rows that cannot be used: counted by side, with the messages of the first ones."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._messages: list[tuple[str, str]] = []

    @property
    def total(self) -> int:
        """Number of bad rows on all sides."""
        return self._count.total()

    def add(self, side: str, message: str, where: str) -> None:
        """Count one more row of that side."""
        self._count[side] += 1
        if len(self._messages) < _RECORDED:
            self._messages.append((message, where))

    def report(self) -> None:
        """Raise DataError if there are any."""
        if self.total == 1:
            raise DataError(*self._messages[0])
        if self.total:
            lines = "".join(f"\n  - {where}: {message}" for message, where in self._messages[:_SHOWN])
            more = f"\n  and {self.total - _SHOWN} more" if self.total > _SHOWN else ""
            raise DataError(
                f"{self.total} rows cannot be used: correct them, leave them out, or write data.bad_rows: skip"
                f"{lines}{more}"
            )

    def document(self) -> dict[str, Any]:
        """Return the entry for the run's record; empty when there are none."""
        if not self.total:
            return {}
        rows = [f"{where}: {message}" for message, where in self._messages]
        more = {side: self._count[side] for side in ("test", "target") if self._count[side]}
        return {"train": self._count["train"], "eval": self._count["eval"], **more, "rows": rows}


def row_labels(row: Mapping[str, Any], columns: Mapping[str, Column]) -> Iterator[str]:
    """Yield every label in a row, as often as it occurs."""
    for name, column in columns.items():
        if column.classes and row.get(name) is not None:
            yield from column.labels(row[name])
