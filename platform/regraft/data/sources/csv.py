"""Read comma or tab separated files, with or without a header line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text
from regraft.data.table_shape import table_shape
from regraft.data.text_encoding import Encoding
from regraft.errors import DataError
from regraft.units import counted

_LONGEST_CELL = 16 << 20
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)
"""The first line by which Excel is told the character between cells."""
_TYPE_LINE = re.compile(r'"?#TYPE ')
_OTHER_DELIMITERS = ("\t", ";", "|", ",")
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_Character = Annotated[str, Field(min_length=1, max_length=1)]


class Csv(Source):
    """Comma or tab separated text (RFC 4180) in UTF-8 or UTF-16, also gzipped.

    A first line `sep=;` (Excel) sets the delimiter. Passed over are #TYPE lines of PowerShell, blank lines, and
    lines of delimiters alone. A column that is not read may have any name, or none.
    """

    suffixes = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
    later: ClassVar[frozenset[str]] = frozenset({"escape", "encoding"})
    synonyms: ClassVar[frozenset[str]] = frozenset({"tsv", "table", "excel", "spreadsheet", "pandas"})

    delimiter: _Character | None = None
    """Character between cells; null: that of the line `sep=`, else a tab in .tsv files and a comma in others."""
    quote: _Character | None = '"'
    """Character around cells that contain the delimiter or a line break; null: quotes are plain text."""
    header: Literal[True] | tuple[str, ...] = True
    """True: the first line names the columns. Else the names, as in [text, label]."""
    escape: _Character | None = None
    """Character before a quote that is part of a cell, such as the backslash that Spark writes; null: a quote is
    doubled."""
    encoding: Encoding | None = None
    """Encoding of the file, such as cp1252; null: by its mark, else UTF-8."""

    @classmethod
    def proposed(cls, path: Path) -> Self | None:
        """Return the delimiter, the quote and the names of columns that the first rows of a table show."""
        fields = table_shape(path)
        return None if fields is None else cls(**fields)

    @field_validator("header", mode="before")
    @classmethod
    def _require_names_without_header(cls, written: object) -> object:
        if written in ("yes", "on", "true"):
            return True
        if written in (False, None, [], (), "no", "off", "none"):
            raise ValueError("columns need names: for a file without a header write them, as in header: [text, label]")
        if isinstance(written, list | tuple) and len(set(map(str, written))) != len(written):
            raise ValueError(f"{list(written)} names a column twice")
        return written

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield each row with its first line's number; a row with too many or too few cells is a bad row."""
        if csv.field_size_limit() < _LONGEST_CELL:
            csv.field_size_limit(_LONGEST_CELL)  # Python's default of 128 KiB is too small for long documents
        with open_text(path, newline="", encoding=self.encoding) as file:
            lines = _CsvLines(file, path, self)
            for where in lines.type_lines:
                yield Raw({}, where, ignored="#TYPE lines of PowerShell")
            rows = lines.rows()
            names = _header(rows, path) if self.header is True else list(self.header)
            for where, cells in rows:
                if isinstance(cells, str):
                    yield Raw({}, where, cells)
                elif not any(map(str.strip, cells)) and lines.is_bare():
                    yield Raw({}, where, ignored=_EMPTY if cells else "blank lines")
                elif len(cells) != len(names):
                    yield self._uneven(where, cells, names)
                else:
                    yield Raw(dict(zip(names, cells, strict=True)), where)

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return how to read a table whose names show another delimiter, no header, or words with their tags."""
        names = [*raw.values, ""]
        twice = [name for name in wanted if f"{name}#1" in raw.values]
        if twice:
            return f"the header names {twice[0]!r} more than once: write {twice[0]}#1 for the first of them"
        if any(_TAG.fullmatch(name) for name in names[1:]) or names[0].startswith("-DOCSTART-"):
            return "its first line looks like a word with its tag: write data.format: conll"
        if len(names) == 2:
            for other in _OTHER_DELIMITERS:
                if other in names[0] and (not wanted or set(wanted) & set(names[0].split(other))):
                    return f"its cells are separated by {other!r}: write data.format: {self.written(delimiter=other)}"
        return ""

    def _uneven(self, where: str, cells: list[str], names: list[str]) -> Raw:
        """Return a row whose cells are not as many as the columns: bad, unless nothing is lost without the others."""
        if len(cells) > len(names) and not any(cells[len(names) :]):
            return Raw(dict(zip(names, cells, strict=False)), where)
        hint = "" if self.quote is None else ", or set data.format.quote: null if quotes are plain text"
        problem = (
            f"has {counted(len(cells), 'cell')} for {len(names)} columns: "
            f"put quotes around cells that contain the delimiter{hint}"
        )
        return Raw(dict(zip(names, cells, strict=False)), where, problem)


_EMPTY = "rows without any value"


class _CsvLines:
    """The lines of a file without those that come before the table, and the rows in them."""

    def __init__(self, file: Iterator[str], path: Path, source: Csv) -> None:
        self._path, self._source = path, source
        self.type_lines: list[str] = []
        """Positions of the lines by which PowerShell names its type."""
        self._before = 0
        self._nul = False
        self._line = ""
        """The line that was read last."""
        self._delimiter = source.delimiter or ("\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ",")
        self._file = self._table(file)

    def _table(self, file: Iterator[str]) -> Iterator[str]:
        """Return the lines of the table itself; what is written before it is obeyed or noted."""
        for line in file:
            if found := _SEPARATOR_LINE.fullmatch(line):
                self._delimiter = self._source.delimiter or found[1]
            elif _TYPE_LINE.match(line):
                self.type_lines.append(f"{self._path}:{self._before + 1}")
            else:
                return chain([line], file)
            self._before += 1
        return iter(())

    def _lines(self) -> Iterator[str]:
        """Yield lines as `csv` reads them: escapes of quotes doubled, those of other characters kept."""
        escape, quote = self._source.escape, self._source.quote
        pairs = re.compile(re.escape(escape) + "(.?)", re.DOTALL) if escape else None
        kept = {escape, quote or self._delimiter}
        for line in self._file:
            self._line = line
            if "\0" in line:
                self._nul = True
            if pairs is None:
                yield line
            else:
                yield pairs.sub(lambda pair: pair[0] if pair[1] in kept else pair[0][0] + pair[0], line)

    def rows(self) -> Iterator[tuple[str, list[str] | str]]:
        """Yield each row's position in the file, and its cells, or an error message if it cannot be read."""
        source = self._source
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if source.quote else csv.QUOTE_NONE
        reader = csv.reader(
            self._lines(),
            delimiter=self._delimiter,
            quotechar=source.quote,
            quoting=quoting,
            escapechar=source.escape,
            strict=True,
        )
        path, before = str(self._path), self._before
        while True:
            first = before + reader.line_num + 1
            where = f"{path}:{first}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = self._unreadable(error, first, before + reader.line_num)
                if "expected after" not in str(error):  # an unclosed quote extends to the end of the file
                    raise DataError(problem, where) from None
                yield where, problem
                continue
            if self._nul:
                self._nul = False
                yield where, "holds a NUL character, which is not text: leave it out, or write data.format.encoding"
            else:
                yield where, cells

    def is_bare(self) -> bool:
        """Return whether the row read last, whose cells are empty, is a blank line or nothing but delimiters.

        Quotes make a row of it, though their cells are empty: pandas writes so what is missing in a single column.
        Spaces between delimiters may be somebody's values.
        """
        rest = self._line.strip("\r\n")
        return not rest.replace(self._delimiter, "") or (self._delimiter not in rest and not rest.strip(" \t"))

    def _unreadable(self, error: csv.Error, first: int, last: int) -> str:
        """Return the message about a row that `csv` cannot read, with the settings that may help."""
        over = f" (lines {first} to {last}, which a quote holds together)" if last > first else ""
        hints = ["quote: null if quotes are plain text in this file"]
        if self._source.escape is None:
            hints.append(
                f"escape: '\\' if \\{self._source.quote or ''} is a quote inside of a cell, as Spark writes it"
            )
        return f"is not readable as a table{over}: {error}; write in data.format {', or '.join(hints)}"


def _header(rows: Iterator[tuple[str, list[str] | str]], path: Path) -> list[str]:
    """Return the columns' names from the first line that is not blank. DataError if there is none, or no table.

    Names that stand there more than once get a number: `text#1`, `text#2`. Columns without a name do too, unless there
    is only one.
    """
    line = next((row for row in rows if any(cell.strip() for cell in row[1])), None)
    if line is None:
        raise DataError("is empty; its first line must name the columns", str(path))
    where, names = line
    if isinstance(names, str):
        raise DataError(names, where)
    count, so_far = Counter(names), Counter[str]()
    if max(count.values()) == 1:
        return names
    numbered = []
    for name in names:
        so_far[name] += 1
        numbered.append(name if count[name] == 1 else f"{name}#{so_far[name]}")
    return numbered
