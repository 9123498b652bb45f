"""JSON of stored documents, parsed within bounds of size and depth."""

from __future__ import annotations

import json
from typing import Any

from regraft.store.objects import ObjectStore
from regraft.store.size_bound import refuse_large
from regraft.units import bytes_text

MOST_BYTES = 64 << 20
"""Size of the largest document that is parsed; a manifest of 100,000 files takes a fifth of it."""
MOST_DEPTH = 100
"""Deepest nesting of lists and mappings."""


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text. Raises ValueError, with the reason, where it is broken, too large or too deep.

    Text that no file or terminal can hold (half of a pair of surrogates) is refused too.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"has {bytes_text(len(data))}; at most {bytes_text(MOST_BYTES)} are read")
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _refuse_deep(value, data)
    _refuse_half_characters(data)
    return value


def get_bounded(store: ObjectStore, key: str) -> bytes:
    """Return the bytes of a document. Raises Damaged for one that is too large to be parsed, without reading it all."""
    data, total = store.read_start(key, MOST_BYTES + 1)
    refuse_large(total, MOST_BYTES, f"{store.url}/{key}")
    return data


def _refuse_deep(value: Any, data: bytes | str) -> None:
    opened = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    if opened <= MOST_DEPTH:
        return
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [item for container in level for item in _items(container)]
        if not level:
            return
    raise ValueError(_too_deep())


def _items(value: Any) -> list[Any]:
    """Return the lists and mappings directly inside of a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in inside if isinstance(item, dict | list)]


def _refuse_half_characters(data: bytes | str) -> None:
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogatepass")
    if "\\ud" not in text.lower():
        return
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds text that is no valid Unicode: half of a pair of surrogates") from None


def _too_deep() -> str:
    return f"is nested more than {MOST_DEPTH} levels deep"
