"""JSON documents with a checksum of themselves, so that a changed byte is detected."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from regraft.errors import Damaged
from regraft.store.bounded_json import parse_json

_CHECKSUM = "sha256"


def dump(body: dict[str, Any]) -> bytes:
    """Return the stored form of `body`, which must be JSON without NaN and without a key "sha256"."""
    return json.dumps(body | {_CHECKSUM: _checksum(body)}, indent=1, sort_keys=True, allow_nan=False).encode()


def load(data: bytes, where: str, format: int) -> dict[str, Any]:
    """Return the body that `dump` stored. Raises Damaged, naming `where`, for anything else or another format."""
    try:
        body = parse_json(data)
        checksum = body.pop(_CHECKSUM)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        why = f": it {error}" if str(error).startswith(("has", "holds", "is nested")) else ""
        raise Damaged(f"is not a document of regraft, or only a part of one{why}", where) from error
    if body.get("format") != format:
        raise Damaged(f"has format {body.get('format')!r}; this regraft reads {format}: upgrade it", where)
    if checksum != _checksum(body):
        raise Damaged("was changed after it was written", where)
    return dict(body)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
