"""The identity of a row: what its side of the split and the fingerprint of the data are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.contracts import Column, Row

canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Writes equal values as equal JSON."""


def row_identity(row: Row, columns: Mapping[str, Column]) -> bytes:
    """Return the row as canonical JSON, independent of the location of the files that it names.

    Raises UnicodeEncodeError for a text with a lone surrogate.
    """
    values = {
        name: None if (value := row[name]) is None else column.identity(value) for name, column in columns.items()
    }
    return canonical(values).encode()


def files_of(columns: Mapping[str, Column]) -> tuple[str, ...]:
    """Return the names of the columns whose values are files."""
    return tuple(name for name, column in columns.items() if column.by_reference)


def fingerprint_part(identity: bytes, row: Row, length: int, files: Sequence[str]) -> bytes:
    """Return a row's contribution to the fingerprint: paths included, as a snapshot names files by them.

    `files` are the names of the columns whose values are files.
    """
    paths = [value if isinstance(value := row[name], str) else "" for name in files]
    return identity + f"\n{length}\n{paths}\n".encode()


def unit_hash(identity: bytes) -> float:
    """Return a number in [0, 1) that depends on the row alone, so that a row is on the same side of every split."""
    return int.from_bytes(hashlib.sha256(identity).digest()[:8]) / 2**64


def by_name(row: dict[str, Any], columns: Mapping[str, Column]) -> dict[str, Any]:
    """Return the row with its files known by their names alone, as the first edition knew them."""
    files = [name for name in files_of(columns) if isinstance(row.get(name), str)]
    return {**row, **{name: str(row[name]) for name in files}} if files else row
