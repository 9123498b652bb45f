"""Source: how a file or folder becomes rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from regraft.plugins import Plugin


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as a source gives it."""

    values: dict[str, Any]
    where: str = field(compare=False)
    """file:row, for messages."""
    problem: str | None = None
    """Why this one row cannot be read, in words; a source goes on after such a row (`data.bad_rows: skip`)."""


class Source(Plugin, ABC):
    """How a file or folder becomes rows; picked by suffix, by `accepts`, or by `data.format`.

    A source with a field `part` (the arrays of an archive, a split of a data set) reads `path#part` where a spec says
    so, each side of it its own.
    """

    family: ClassVar[str] = "sources"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def accepts(self, path: Path) -> bool:
        """Whether the source reads this path when no format is given."""
        return path.name.lower().endswith(self.suffixes) if self.suffixes else False

    @abstractmethod
    def read(self, path: Path) -> Iterator[Raw]:
        """The rows in file order; a row that cannot be read has a `problem`, DataError is for what ends the file."""
