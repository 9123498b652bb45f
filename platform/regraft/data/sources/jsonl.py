"""Source of JSON objects: one on each line, or a list of them."""

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
        """Accept such suffixes, `.json` only if it is not one document, which the source `coco` reads."""
        if not super().accepts(path):
            return False
        plain = path.name.lower().endswith((".json", ".json.gz"))
        return not plain or json_shape(path) != "document"

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their line, or in a list by their number from 1; a list is read in pieces, too.

        A line that is not JSON is a bad row. In a list it is a DataError, as the start of the next row is not known.
        """
        with open_text(path) as file:
            items = _list_items(file, path) if json_shape(path) == "list" else _lines(file, path)
            for where, value in items:
                if isinstance(value, _InvalidJson):
                    yield Raw({}, where, str(value))
                elif isinstance(value, dict):
                    yield Raw(value, where)
                else:
                    problem = f"is a {type(value).__name__}; a row is an object: {{name: value}}"
                    yield Raw({}, where, problem)


class _InvalidJson(Exception):
    """A line is not JSON; the message says why."""


def _lines(file: IO[str], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value on each line with its position, or `_InvalidJson` in its place."""
    for number, line in enumerate(file, 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                value = _InvalidJson(f"is not a JSON object on one line: {error}")
            yield where, value


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
                raise DataError(f"is not JSON: {error}", where) from None
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
