"""Source of JSON objects: one on each line, a list of them, one after another, or a table in one document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, ClassVar

from regraft.contracts import Raw, Source
from regraft.contracts.column import json_name
from regraft.data.annotation_tools import document_of_a_tool
from regraft.data.json_shape import json_shape, open_text
from regraft.data.json_tables import Orient, fields_of_rows, find_inside, is_index, table_rows
from regraft.data.text_encoding import Encoding
from regraft.errors import DataError
from regraft.units import with_article

_PIECE = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")


class Jsonl(Source):
    """JSON objects, one on each line, in one list or one after another; UTF-8 or UTF-16, also packed with gzip.

    A document that is one table is read as pandas' `to_json` writes it. Where rows stand under a key, write it as
    `field`.
    """

    suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json", ".json.gz")
    later: ClassVar[frozenset[str]] = frozenset({"field", "orient", "encoding"})
    synonyms: ClassVar[frozenset[str]] = frozenset({"json", "json-lines", "jsonlines", "ndjson"})

    field: str | None = None
    """Key under which each object holds its rows: data for {"data": [...]}; dots lead into objects."""
    orient: Orient | None = None
    """Form of a table: records (a list of rows), columns ({column: [values]} or {column: {row: value}}) or index
    ({row: {column: value}}); null: the form that the document shows."""
    encoding: Encoding | None = None
    """Encoding of the file, such as cp1252; null: by its mark, else UTF-8."""

    def accepts(self, path: Path) -> bool:
        """Accept such suffixes, `.json` unless it is a document of COCO or SQuAD, which have sources of their own."""
        if not super().accepts(path):
            return False
        plain = path.name.lower().endswith((".json", ".json.gz"))
        return not plain or json_shape(path) not in ("document", "questions")

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their line, or in a list by their number from 1; a list is read in pieces, too.

        A line that is not JSON is a bad row. In a list it is a DataError, as the start of the next row is not known.
        """
        shape = json_shape(path, self.encoding)
        with open_text(path, encoding=self.encoding) as file:
            if shape == "list":
                items = _list_items(file, path)
            else:
                items = _lines(file, path) if shape == "lines" else _objects(file, path)
            begin = [] if shape == "list" else list(islice(items, 2))
            document = str(path) if len(begin) == 1 else ""
            for where, value in chain(begin, items):
                yield from self._rows(where, value, document)

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return the key under which rows with the wanted columns stand, or the form of the table."""
        if other := document_of_a_tool(raw.values):
            return f"it is {other}"
        if is_index(raw.values, wanted):
            return f"each of its keys holds a row: write data.format: {self.written(orient='index')}"
        fields = fields_of_rows(raw.values, wanted)
        if not fields or self.field is not None:
            return ""
        under = ", ".join(map(repr, fields))
        return f"rows stand under {under}: write data.format: {self.written(field=fields[0])}"

    def _rows(self, where: str, value: Any, document: str) -> Iterator[Raw]:
        """Yield the rows of one value of the file; `document` is the file's name if it is the only one."""
        if isinstance(value, _InvalidJson):
            yield Raw({}, where, str(value))
            return
        if self.field is not None:
            try:
                value = find_inside(value, self.field)
            except KeyError:
                has = (
                    ", ".join(map(repr, list(value)[:20]))
                    if isinstance(value, dict)
                    else with_article(json_name(value))
                )
                yield Raw({}, where, f"has no key {self.field!r}, which data.format.field names; it has {has}")
                return
        rows = None
        if document or self.field is not None or self.orient is not None:
            try:
                rows = table_rows(value, self.orient) if isinstance(value, dict) or self.field else None
            except ValueError as error:
                raise DataError(str(error), document or where) from None
        if rows is None:
            yield _row(where, value)
            return
        for number, row in enumerate(rows, 1):
            yield _row(f"{document}:{number}" if document else f"{where}, row {number}", row)


class _InvalidJson(Exception):
    """A line is not JSON; the message says why."""


def _row(where: str, value: Any) -> Raw:
    """Return a row, which is bad unless it is an object."""
    if isinstance(value, dict):
        return Raw(value, where)
    hint = " (pandas: to_json(orient='records'))" if isinstance(value, list) else ""
    return Raw({}, where, f"is {with_article(json_name(value))}; a row is an object: {{name: value}}{hint}")


def _lines(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the values on each line with their position, or `_InvalidJson` in their place."""
    for number, line in enumerate(file, 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                several = _several(line)
                what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                invalid = _InvalidJson(f"is not a JSON object on one line: {what}")
                yield from ((where, value) for value in several or [invalid])


def _several(line: str) -> list[Any]:
    """Return the objects of a line that holds several, one after another; empty for any other line."""
    decoder, values, at = json.JSONDecoder(), [], _skip_space(line, 0)
    while at < len(line):
        try:
            value, at = decoder.raw_decode(line, at)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict):
            return []
        values.append(value)
        at = _skip_space(line, at)
    return values


def _objects(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield objects that follow one another, over any number of lines, with their number as position."""
    decoder = json.JSONDecoder()
    text, at, number = "", 0, 1
    while True:
        at = _skip_space(text, at)
        if at == len(text):
            text, at = file.read(_PIECE), 0
            if not text:
                return
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            more = file.read(max(_PIECE, len(text) - at))
            if not more:
                raise DataError(f"is not JSON: {getattr(error, 'msg', error)}", f"{path}:{number}") from None
            text, at = text[at:] + more, 0
            continue
        yield f"{path}:{number}", value
        number += 1


def _list_items(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the items of a JSON list with their positions, decoding it piece by piece."""
    decoder = json.JSONDecoder()
    while file.read(1).isspace():  # and the bracket after it
        pass
    text, at, number = "", 0, 0
    while True:
        at, where = _skip_space(text, at), f"{path}:{number + 1}"
        if text.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(text, at)
            end = _skip_space(text, end)
            if end == len(text):
                raise ValueError("the list does not end")
        except (ValueError, RecursionError) as error:
            # The piece may end inside a row. Doubling it each time keeps the cost of long rows linear.
            more = file.read(max(_PIECE, len(text) - at))
            if not more:
                raise DataError(f"is not JSON: {getattr(error, 'msg', error)}", where) from None
            text, at = text[at:] + more, 0
            continue
        if text[end] not in ",]":
            raise DataError(f"is followed by {text[end : end + 20]!r}; a comma or the end of the list is wanted", where)
        yield where, value
        number, at = number + 1, end + (text[end] == ",")


def _skip_space(text: str, at: int) -> int:
    """Return the index of the next character that is not a space, or of the end."""
    spaces = _SPACE.match(text, at)
    return spaces.end() if spaces else at
