"""Is this JSON what was written? Each stored document carries a hash of itself, so a changed byte is noticed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from regraft.errors import Damaged

_SEAL = "sha256"


def dump(body: dict[str, Any]) -> bytes:
    """The stored form of `body`, which must be JSON without NaN and without a key "sha256"."""
    return json.dumps(body | {_SEAL: _seal(body)}, indent=1, sort_keys=True, allow_nan=False).encode()


def load(data: bytes, where: str, format: int) -> dict[str, Any]:
    """What `dump` stored; Damaged, with `where` in the message, for anything else or another format number."""
    try:
        body = json.loads(data)
        seal = body.pop(_SEAL)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Damaged("is not one of our documents, or only a part of one", where) from error
    if body.get("format") != format:
        raise Damaged(f"has format {body.get('format')!r}; this regraft reads {format}: upgrade it", where)
    if seal != _seal(body):
        raise Damaged("was changed after it was written", where)
    return dict(body)


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
