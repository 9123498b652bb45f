"""One side of the split as it grows, and the rows that cannot be used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from regraft.contracts import Column
from regraft.data.rows import RowWriter
from regraft.errors import DataError

_SHOWN = 5
_KEPT = 100
"""Bad rows that are written down in words with the run."""


class Side:
    """Rows that were placed on one side: written, hashed in their order, their labels and groups counted."""

    def __init__(self, name: str, writer: RowWriter, places: TextIO | None = None) -> None:
        """`places` gets a line for each row, where it stood: who leaves rows out later has to name them."""
        self.name = name
        self.groups: dict[str, str] = {}
        """Where each group was seen first."""
        self.restart(writer, places)

    def restart(self, writer: RowWriter, places: TextIO | None = None) -> None:
        """Begin anew with other files, as if no row had been placed; groups stay."""
        self._places = places
        self._writer = writer
        self.hash = hashlib.sha256()
        self.labels: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """Where each label was seen first."""

    @property
    def rows(self) -> int:
        """Rows placed so far."""
        return self._writer.rows

    def add(
        self,
        row: Mapping[str, Any],
        length: int,
        identity: bytes,
        columns: Mapping[str, Column],
        where: str,
        group: str | None,
    ) -> None:
        """Append a row of that length; `identity` is what the fingerprint holds of it."""
        self._writer.add(row, length)
        if self._places:
            self._places.write(where.replace("\n", " ") + "\n")
        self.hash.update(identity)
        for label in labels_of(row, columns):
            self.labels[label] += 1
            self.first.setdefault(label, where)
        if group is not None:
            self.groups.setdefault(group, where)


class Problems:
    """Rows that cannot be used: the first in words, all of them counted by side."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._told: list[tuple[str, str]] = []

    @property
    def total(self) -> int:
        """How many rows on both sides."""
        return self._count.total()

    def add(self, side: str, message: str, where: str) -> None:
        """One more row of that side."""
        self._count[side] += 1
        if len(self._told) < _KEPT:
            self._told.append((message, where))

    def report(self) -> None:
        """DataError if there were any."""
        if self.total == 1:
            raise DataError(*self._told[0])
        if self.total:
            lines = "".join(f"\n  - {where}: {message}" for message, where in self._told[:_SHOWN])
            more = f"\n  and {self.total - _SHOWN} more" if self.total > _SHOWN else ""
            raise DataError(
                f"{self.total} rows cannot be used: correct them, leave them out, or write data.bad_rows: skip"
                f"{lines}{more}"
            )

    def document(self) -> dict[str, Any]:
        """As the run's record keeps it; empty when there were none."""
        if not self.total:
            return {}
        rows = [f"{where}: {message}" for message, where in self._told]
        return {"train": self._count["train"], "eval": self._count["eval"], "rows": rows}


def labels_of(row: Mapping[str, Any], columns: Mapping[str, Column]) -> Iterator[str]:
    """Every label that a row holds, as often as it does."""
    for name, column in columns.items():
        if column.classes:
            yield from column.labels(row[name])
