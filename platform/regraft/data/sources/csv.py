"""Read comma or tab separated files, with or without a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text
from regraft.errors import DataError

_LONGEST_CELL = 16 << 20
_Character = Annotated[str, Field(min_length=1, max_length=1)]


class Csv(Source):
    """Comma or tab separated text (RFC 4180) in UTF-8, with or without a byte order mark, also gzipped."""

    suffixes = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
    delimiter: _Character | None = None
    """Character between cells; null: a tab in .tsv files and a comma in others."""
    quote: _Character | None = '"'
    """Character around cells that contain the delimiter or a line break; null: quotes are plain text."""
    header: Literal[True] | tuple[str, ...] = True
    """True: the first line names the columns. Else the names, as in [text, label]."""

    @field_validator("header", mode="before")
    @classmethod
    def _require_names_without_header(cls, written: object) -> object:
        if written is False or written is None or written == []:
            raise ValueError("columns need names: for a file without a header write them, as in header: [text, label]")
        if isinstance(written, list | tuple) and len(set(map(str, written))) != len(written):
            raise ValueError(f"{list(written)} names a column twice")
        return written

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield each row with its first line's number; a row with too many or too few cells is a bad row."""
        if csv.field_size_limit() < _LONGEST_CELL:
            csv.field_size_limit(_LONGEST_CELL)  # Python's default of 128 KiB is too small for long documents
        with open_text(path, newline="") as file:
            lines = self._lines(file, path)
            names = _header(next(lines, None), path) if self.header is True else list(self.header)
            for where, cells in lines:
                if isinstance(cells, str):
                    yield Raw({}, where, cells)
                    continue
                problem = None
                if len(cells) != len(names):
                    hint = "" if self.quote is None else ", or set data.format.quote: null if quotes are plain text"
                    problem = (
                        f"has {_cells(len(cells))} for {len(names)} columns: "
                        f"put quotes around cells that contain the delimiter{hint}"
                    )
                yield Raw(dict(zip(names, cells, strict=False)), where, problem)

    def _lines(self, file: Iterator[str], path: Path) -> Iterator[tuple[str, list[str] | str]]:
        """Yield each row's position in the file, and its cells, or an error message if it cannot be read."""
        delimiter = self.delimiter or ("\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ",")
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        reader = csv.reader(file, delimiter=delimiter, quotechar=self.quote, quoting=quoting, strict=True)
        while True:
            where = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "write data.format.quote: null if quotes are plain text in this file"
                problem = f"is not readable as a table: {error}; {hint}"
                if "expected after" not in str(error):  # an unclosed quote extends to the end of the file
                    raise DataError(problem, where) from None
                yield where, problem
                continue
            if cells:
                yield where, cells


def _header(line: tuple[str, list[str] | str] | None, path: Path) -> list[str]:
    """Return the columns' names from the first line. Raises DataError if it is missing or cannot be read."""
    if line is None:
        raise DataError("is empty; its first line must name the columns", str(path))
    where, names = line
    if isinstance(names, str):
        raise DataError(names, where)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the header names {', '.join(map(repr, twice))} twice: rename one of the columns", where)
    return names


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"
