"""Shape of a .json file: a list of rows, a row on each line, objects over several lines, a COCO or SQuAD document."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import IO, Literal

from regraft.data.text_encoding import encoding_of, for_reading

JsonShape = Literal["list", "lines", "objects", "document", "questions"]

_HEAD = 1 << 16
_COCO_PAIR = frozenset({"images", "annotations"})
_COCO_KEYS = frozenset({"images", "annotations", "categories"})
_COCO_BESIDES = frozenset({"info", "licenses", "type"})
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_TEXT = r'"(?:[^"\\]|\\.){0,4000}"'
_PLAIN_FIELDS = rf"(?:{_TEXT}\s*:\s*(?:{_TEXT}|[\d.]+|null)\s*,\s*){{0,20}}"
_SQUAD = re.compile(rf'\{{\s*{_PLAIN_FIELDS}"data"\s*:\s*\[\s*\{{\s*{_PLAIN_FIELDS}"paragraphs"\s*:\s*\[', re.DOTALL)
"""The beginning of SQuAD's documents: articles, of which the first has paragraphs."""
_decoder = json.JSONDecoder()


def json_shape(path: Path, encoding: str | None = None) -> JsonShape:
    """Return the shape of a JSON file, by its first 64 KiB.

    A file that cannot be read or is not JSON counts as lines: the source of lines then raises the error.
    """
    try:
        with open_text(path, encoding=encoding) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error, UnicodeError):
        return "lines"
    whole = len(head) < _HEAD
    head = head.lstrip()
    if head.startswith("["):
        return "list"
    if not head.startswith("{"):
        return "lines"
    if _SQUAD.match(head):
        return "questions"
    keys, complete = _top_keys(head)
    shape = _shape_of_objects(head, complete=complete)
    if complete:
        several = shape == "objects" and len(keys & _COCO_KEYS) > 1
        return "document" if several or keys >= _COCO_PAIR else shape
    hidden = not whole and bool(keys) and keys <= _COCO_BESIDES  # COCO's lists come after 64 KiB of licenses
    return "document" if hidden or keys & _COCO_KEYS else shape


def open_text(path: Path, newline: str = "\n", encoding: str | None = None) -> IO[str]:
    """Open a text file, decompressed when its name ends with .gz; a byte order mark is dropped.

    Its encoding is that of its mark, else UTF-8, where none is given. Raises UnicodeDecodeError for UTF-16 without a
    mark.
    """
    used = for_reading(encoding, path) if encoding else encoding_of(path)
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding=used, newline=newline)
    return path.open(encoding=used, newline=newline)


def _shape_of_objects(head: str, *, complete: bool) -> Literal["lines", "objects"]:
    """Return whether the objects of a file stand on one line each, or over several.

    `complete` says whether the first object ends within `head`.
    """
    first, newline, rest = head.partition("\n")
    if not newline:
        return "lines"
    try:
        _decoder.raw_decode(first)
    except (ValueError, RecursionError):
        # Lines of which the first is broken are followed by another object; an object goes on with a key or a value.
        goes_on = first.rstrip()[-1:] in ("{", "[", ",") or not rest.lstrip().startswith("{")
        return "objects" if complete or (goes_on and rest.strip()) else "lines"
    return "lines"


def _top_keys(head: str) -> tuple[set[str], bool]:
    """Return the keys of the object at the beginning of a text, and whether it ends there.

    Keys behind a value that does not end in the text are not known.
    """
    keys: set[str] = set()
    at = 1
    while found := _KEY.match(head, at):
        try:
            keys.add(json.loads(found[1]))
            _, at = _decoder.raw_decode(head, found.end())
        except (ValueError, RecursionError):
            return keys, False
        rest = head[at : at + 200].lstrip()
        at += len(head[at : at + 200]) - len(rest)
        if rest[:1] != ",":
            return keys, rest[:1] == "}"
        at += 1
    return keys, head[at:].lstrip()[:1] == "}"
