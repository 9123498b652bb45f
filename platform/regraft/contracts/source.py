"""Source: how a file or a folder is read as rows."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

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
    remark: str = ""
    """What a user should know about a usable but doubtful row; equal texts are counted and reported once."""


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

    @classmethod
    def proposed(cls, path: Path) -> Self | None:
        """Return the source, set up as the beginning of a file shows; None where that shows nothing.

        A look at data asks every source; a spec names what it reads.
        """
        return None

    def splits_in(self, path: Path) -> tuple[str, ...]:
        """Return the names of the splits in a file or folder, as `part` has them; none where there are no such."""
        return ()

    def written(self, **changes: object) -> str:
        """Return the source as `data.format` writes it, with some of its fields changed."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        usual = {name: field.default for name, field in type(self).model_fields.items()}
        shown = {name: value for name, value in {**fields, **changes}.items() if value != usual[name]}
        return f"{{{', '.join(f'{name}: {_yaml(value)}' for name, value in {'type': self.key(), **shown}.items())}}}"

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return what to write so that the columns `wanted` are found, if `raw` shows it; empty if it does not.

        Called with a row that lacks one of them, and again without names: then for how the file is probably meant. The
        text continues a sentence.
        """
        return ""

    def smaller_rows(self) -> str:
        """Return what to write so that a file has more rows, where there is such a setting; it continues a sentence."""
        return ""

    @abstractmethod
    def read(self, path: Path) -> Iterator[Raw]:
        """Yield the rows in file order.

        A row that cannot be read is yielded with its `problem`, and a thing that is passed over with its kind in
        `ignored`: nothing is left out without a trace. Raises DataError where the rest of the file cannot be
        read either.
        """


def _yaml(value: object) -> str:
    """Return a value as YAML in one line: plain words bare, everything else as JSON."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.-]*", value) else json.dumps(value)
