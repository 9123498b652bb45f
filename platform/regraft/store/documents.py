"""Small JSON documents that several processes change, by compare-and-swap with retries."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from regraft.errors import Conflict, Damaged, NotFound
from regraft.store import checksummed
from regraft.store.bounded_json import MOST_BYTES, get_bounded, parse_json
from regraft.store.objects import ObjectStore
from regraft.store.schemas import Stored, check_types

FORMAT = 1
_MAX_TRIES = 100

log = logging.getLogger(__name__)
Document = dict[str, Any]
if TYPE_CHECKING:
    from _typeshed import DataclassInstance
Kind = TypeVar("Kind", bound="DataclassInstance")


def encode(document: Document) -> bytes:
    """Return the stored form, with the format and a unique id, so that no two writes have the same bytes."""
    return checksummed.dump(document | {"format": FORMAT, "change": uuid4().hex})


def decode(data: bytes, where: str, schema: type[Stored] = Stored) -> Document:
    """Return the document stored as `data`.

    Raises Damaged if it was changed after it was written, or if a value does not have the type that `schema` gives it.
    """
    document = checksummed.load(data, where, FORMAT)
    check_types(document, schema, where)
    return document


def read(store: ObjectStore, key: str, schema: type[Stored] = Stored) -> Document:
    """Return the document at `key`. Raises NotFound or Damaged."""
    return decode(get_bounded(store, key), f"{store.url}/{key}", schema)


def read_or_none(store: ObjectStore, key: str, schema: type[Stored] = Stored) -> Document | None:
    """Return the document at `key`; None if there is none, or if it is damaged and is to be made again."""
    try:
        return read(store, key, schema)
    except NotFound:
        return None
    except Damaged as error:
        log.warning("%s; it is written again", error)
        return None


def of_known_keys(kind: type[Kind], document: Mapping[str, Any]) -> Kind:
    """Return a dataclass from a stored document; keys of later editions are left out."""
    return kind(**{one.name: document[one.name] for one in fields(kind) if one.name in document})


def json_lines(store: ObjectStore, key: str) -> list[Document]:
    """Return the objects in a file of JSON lines; lines that cannot be read are left out, a missing file is empty."""
    try:
        text = store.get(key).decode("utf-8", "replace")
    except NotFound:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(parse_json(line))
        except ValueError:
            continue
    return [document for document in found if isinstance(document, dict)]


def raise_damaged(error: Damaged) -> None:
    """Raise `error`, so that a damaged document is left unchanged."""
    raise error


def change(
    store: ObjectStore,
    key: str,
    edit: Callable[[Document | None], Document],
    *,
    on_damaged: Callable[[Damaged], None] = raise_damaged,
    schema: type[Stored] = Stored,
) -> Document:
    """Replace the document at `key` by `edit(document)` (None if it does not exist) and return the new one.

    `edit` is called again with the newer document after a concurrent change, so it must have no side effects; an error
    that it raises ends the change. If `on_damaged` returns, a damaged document is replaced as if it did not exist.
    Raises Conflict if every one of a hundred tries met a concurrent change.
    """
    for attempt in range(_MAX_TRIES):
        old, write = _read_for_update(store, key, on_damaged, schema)
        data = encode(edit(old))
        try:
            write(data)
        except Conflict:
            time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
            continue
        return decode(data, key)
    raise Conflict(f"{key} was changed by other processes during each of {_MAX_TRIES} tries", store.url)


def _read_for_update(
    store: ObjectStore, key: str, on_damaged: Callable[[Damaged], None], schema: type[Stored]
) -> tuple[Document | None, Callable[[bytes], None]]:
    """Return the current document, and the write that succeeds only while it is unchanged."""
    tag = ""
    try:
        data, tag = store.read(key, MOST_BYTES)
        return decode(data, f"{store.url}/{key}", schema), partial(store.put_if_match, key, tag=tag)
    except NotFound:
        return None, partial(store.put_if_absent, key)
    except Damaged as error:
        on_damaged(error)
        return None, partial(store.put_if_match, key, tag=tag or store.tag(key))
