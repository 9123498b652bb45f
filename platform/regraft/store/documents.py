"""How do small JSON documents change when several processes change them? By compare-and-swap until one's turn comes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from regraft.errors import Conflict, Damaged, NotFound
from regraft.store import checksummed
from regraft.store.objects import ObjectStore

FORMAT = 1
_TURNS = 100

Document = dict[str, Any]


def encode(document: Document) -> bytes:
    """The stored form: with the format, and a unique id so that no two writes are the same bytes."""
    return checksummed.dump(document | {"format": FORMAT, "change": uuid4().hex})


def decode(data: bytes, where: str) -> Document:
    """The document stored as `data`; Damaged when it is not as it was written."""
    return checksummed.load(data, where, FORMAT)


def read(store: ObjectStore, key: str) -> Document:
    """The document at `key`; NotFound or Damaged."""
    return decode(store.get(key), f"{store.url}/{key}")


def refuse(error: Damaged) -> None:
    """Leave a damaged document alone."""
    raise error


def change(
    store: ObjectStore,
    key: str,
    edit: Callable[[Document | None], Document],
    *,
    on_damaged: Callable[[Damaged], None] = refuse,
) -> Document:
    """Replace the document at `key` by `edit` of it (None: it does not exist) and return the new one.

    `edit` is called again with the newer document whenever somebody else was first, so it must have no effects;
    what it raises stops the change. When `on_damaged` returns, a damaged document counts as none and is replaced.
    """
    for turn in range(_TURNS):
        old, write = _look(store, key, on_damaged)
        data = encode(edit(old))
        try:
            write(data)
        except Conflict:
            time.sleep(random.uniform(0, 0.002 * 2 ** min(turn, 6)))
            continue
        return decode(data, key)
    raise Conflict(f"{key} is changed by others so often that no turn came in {_TURNS} tries", store.url)


def _look(
    store: ObjectStore, key: str, on_damaged: Callable[[Damaged], None]
) -> tuple[Document | None, Callable[[bytes], None]]:
    """The document as it is, and the write that succeeds only while it is so."""
    try:
        data, tag = store.read(key)
    except NotFound:
        return None, partial(store.put_if_absent, key)
    write = partial(store.put_if_match, key, tag=tag)
    try:
        return decode(data, f"{store.url}/{key}"), write
    except Damaged as error:
        on_damaged(error)
        return None, write
