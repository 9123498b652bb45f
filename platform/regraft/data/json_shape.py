"""Shape of a .json file: a list of rows, a row on each line, or one document."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import IO, Literal

JsonShape = Literal["list", "lines", "document"]

_HEAD = 1 << 16
_DOCUMENT_KEYS = {"images", "annotations"}


def json_shape(path: Path) -> JsonShape:
    """Return the shape of a JSON file, by its first 64 KiB.

    A file that cannot be read or is not JSON counts as lines: the source of lines then raises the error.
    """
    try:
        with open_text(path) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return "lines"
    head = head.lstrip()
    if head.startswith("["):
        return "list"
    if not head.startswith("{"):
        return "lines"
    try:
        first = json.loads(head.partition("\n")[0])
    except (ValueError, RecursionError):
        return "document"  # an object that goes on beyond its first line, or beyond the head
    return "document" if set(first) >= _DOCUMENT_KEYS else "lines"


def open_text(path: Path, newline: str = "\n") -> IO[str]:
    """Open a UTF-8 file as text, decompressed when its name ends with .gz; a byte order mark is dropped."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)
