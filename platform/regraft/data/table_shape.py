"""What the beginning of a text file shows: a table, with its delimiter and names of columns, or words with tags."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from regraft.data.json_shape import open_text

_LINES = 200
_CHARACTERS = 1 << 18
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_TEXTS = (".txt", ".txt.gz", ".data", ".tab", "")
"""Endings of files that may be a table although their name does not say so."""
_NAME = re.compile(r"[^\W\d][\w .:/()#-]{0,40}")
_MOST_WORDS = 4
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_MOSTLY = 0.95


def table_shape(path: Path) -> dict[str, Any] | None:
    """Return the fields of a table's source that differ from its defaults; None where a file shows no table."""
    name = path.name.lower()
    suffix = next((ending for ending in _TABLES if name.endswith(ending)), path.suffix.lower())
    known = suffix in _TABLES
    if not (known or suffix in _TEXTS) or not path.is_file():
        return None
    lines = _first_lines(path)
    if lines is None or not lines:
        return None
    usual = "\t" if suffix.startswith(".tsv") else ","
    found = _delimiter(lines, usual, every=known)
    if found is None:
        return None
    delimiter, quote, rows = found
    fields: dict[str, Any] = {} if known and delimiter == usual else {"delimiter": delimiter}
    if quote is None:
        fields["quote"] = None
    if not _names_columns(rows):
        fields["header"] = [f"column{number}" for number in range(1, len(rows[0]) + 1)]
    return fields


def looks_tagged(path: Path) -> bool:
    """Return whether the lines of a text file are words with tags, and blank lines between sentences."""
    if not path.is_file() or path.name.lower().endswith(_TABLES):
        return False
    lines = _first_lines(path) or []
    cells = [line.split() for line in lines if line.strip() and not line.startswith(("-DOCSTART-", "#"))]
    tagged = sum(len(words) > 1 and _TAG.fullmatch(words[-1]) is not None for words in cells)
    return bool(cells) and len({len(words) for words in cells}) == 1 and tagged >= _MOSTLY * len(cells)


def _first_lines(path: Path) -> list[str] | None:
    """Return the first lines of a text file; None for a file that is no text."""
    try:
        with open_text(path, newline="") as file:
            text = file.read(_CHARACTERS)
    except (OSError, EOFError, zlib.error, UnicodeError):
        return None
    if "\0" in text:
        return None
    lines = text.splitlines(keepends=True)
    whole = lines if len(text) < _CHARACTERS else lines[:-1]
    return whole[:_LINES]


def _delimiter(lines: Sequence[str], usual: str, *, every: bool) -> tuple[str, str | None, list[list[str]]] | None:
    """Return delimiter, quote and rows of a table; None where no delimiter gives rows of one length.

    Of a file whose name is no table's, only tabs are tried: commas and bars are part of prose.
    """
    candidates = (usual, *(other for other in ",\t;|" if other != usual)) if every else ("\t",)
    best: tuple[str, str | None, list[list[str]]] | None = None
    for delimiter in candidates:
        for quote in (None, '"') if delimiter == "\t" else ('"', None):
            rows = _rows(lines, delimiter, quote)
            if rows and len(rows[0]) > 1 and (best is None or len(rows[0]) > len(best[2][0])):
                best = delimiter, quote, rows
    return best


def _rows(lines: Sequence[str], delimiter: str, quote: str | None) -> list[list[str]] | None:
    """Return the rows of lines, if all have as many cells; the last one may be cut by the end of what was read."""
    found: list[list[str]] = []
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote, quoting=quoting, strict=True)
    try:
        found.extend(reader)
    except csv.Error:
        if reader.line_num < len(lines) or not found:
            return None
    rows = [row for row in found if any(cell.strip() for cell in row)]
    rows = rows[:-1] if len(rows) > 1 and len(rows[-1]) != len(rows[0]) else rows
    return rows if rows and len({len(row) for row in rows}) == 1 else None


def _names_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names the columns: different short words, none of which is a value below."""
    first, others = rows[0], rows[1:]
    if len(set(first)) < len(first) or not others:
        return len(set(first)) == len(first)
    for number, name in enumerate(first):
        fits = not name or (_NAME.fullmatch(name.strip()) and len(name.split()) <= _MOST_WORDS)
        if not fits or (name and name in {row[number] for row in others}):
            return False
    return True
