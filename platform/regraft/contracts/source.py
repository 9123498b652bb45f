"""Source: how a file or a folder is read as rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from regraft.plugins import Plugin


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as a source yields it."""

    values: dict[str, Any]
    """The file's columns, not checked yet."""
    where: str = field(compare=False)
    """The row's place for messages, such as file:row."""
    problem: str | None = None
    """Why this row cannot be read, as a message; the source continues with the next row (`data.bad_rows: skip`)."""
    ignored: str = ""
    """A plural noun phrase for a thing that is not a row, such as `files named *.xmp`: it is counted and reported."""


class Source(Plugin, ABC):
    """Reads a file or a folder as rows; chosen by suffix, by `accepts`, or by `data.format`.

    A source may have a field `part`: the arrays of an archive, a split of a data set. A spec's `path#part` sets it, for
    each side of the split on its own.
    """

    family: ClassVar[str] = "sources"
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the file names that the source reads, in lower case, such as `.jsonl`."""

    def accepts(self, path: Path) -> bool:
        """Return whether the source reads this path where a spec names no format."""
        return path.name.lower().endswith(self.suffixes) if self.suffixes else False

    @abstractmethod
    def read(self, path: Path) -> Iterator[Raw]:
        """Yield the rows in file order.

        A row that cannot be read is yielded with its `problem`, and a thing that is passed over with its kind in
        `ignored`: nothing is left out without a trace. Raises DataError where the rest of the file cannot be
        read either.
        """
