"""Which of the three things called .json is this file: a list of rows, a row on each line, or one document?"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import IO, Literal

Shape = Literal["list", "lines", "document"]

_HEAD = 1 << 16
_DOCUMENT_KEYS = {"images", "annotations"}


def json_shape(path: Path) -> Shape:
    """Told from the first 64 KiB; what cannot be read or is not JSON at all counts as lines, whose source says so."""
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
    """The file as text, unpacked when its name ends with .gz; a byte order mark is dropped."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)
