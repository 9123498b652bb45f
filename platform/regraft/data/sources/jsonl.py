"""Rows as JSON objects: one on each line, or a list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from regraft.contracts import Raw, Source
from regraft.data.json_shape import json_shape, open_text
from regraft.errors import DataError

_PIECE = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")


class Jsonl(Source):
    """JSON objects, one on each line or in one list; UTF-8, also packed with gzip."""

    suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json", ".json.gz")

    def accepts(self, path: Path) -> bool:
        """Also `.json`, unless it is one document (COCO), which is another source's."""
        if not super().accepts(path):
            return False
        plain = path.name.lower().endswith((".json", ".json.gz"))
        return not plain or json_shape(path) != "document"

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by their line, or in a list by their number from 1; a list is read in pieces, too.

        A line that is no JSON is a bad row; in a list it ends the file, as it is not known where the next row begins.
        """
        with open_text(path) as file:
            found = _listed(file, path) if json_shape(path) == "list" else _lined(file, path)
            for where, value in found:
                if isinstance(value, _Bad):
                    yield Raw({}, where, str(value))
                elif isinstance(value, dict):
                    yield Raw(value, where)
                else:
                    told = f"is a {type(value).__name__}; a row is an object: {{name: value}}"
                    yield Raw({}, where, told)


class _Bad(Exception):
    """Why a line is no JSON."""


def _lined(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                value = _Bad(f"is not a JSON object on one line: {error}")
            yield where, value


def _listed(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    decoder = json.JSONDecoder()
    while file.read(1).isspace():  # and the bracket after it
        pass
    text, at, number = "", 0, 0
    while True:
        at, where = _solid(text, at), f"{path}:{number + 1}"
        if text.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(text, at)
            end = _solid(text, end)
            if end == len(text):
                raise ValueError("the list does not end")
        except (ValueError, RecursionError) as error:
            # What was read may end inside a row; twice as much each time keeps long rows from costing their square.
            more = file.read(max(_PIECE, len(text) - at))
            if not more:
                raise DataError(f"is not JSON: {error}", where) from None
            text, at = text[at:] + more, 0
            continue
        if text[end] not in ",]":
            raise DataError(f"is followed by {text[end : end + 20]!r}; a comma or the end of the list is wanted", where)
        yield where, value
        number, at = number + 1, end + (text[end] == ",")


def _solid(text: str, at: int) -> int:
    """Where the next character that is no space is, or the end."""
    found = _SPACE.match(text, at)
    return found.end() if found else at
