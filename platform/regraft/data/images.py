"""An image as a row holds it: by reference, or by the bytes of a file where no file of its own exists."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from regraft.contracts import Kind, Row
from regraft.errors import DataError, RegraftError, RequestError
from regraft.media.images import seen_size
from regraft.store.objects import ObjectStore, open_store

ARROW = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
"""How a snapshot keeps an image; the layout that the `datasets` library writes too."""
S3 = "s3://"
_BEGINNING = 1 << 17
"""Bytes that hold the header of nearly every image, with a camera's notes before it."""
_AHEAD = 64
"""Images in S3 whose headers are fetched at once: one after the other each would cost a round trip."""
_THREADS = 16

T = TypeVar("T")


def kept(value: str | bytes) -> dict[str, str | bytes | None]:
    """A path, a URL or the bytes of a file as ARROW holds them."""
    return {"path": None, "bytes": value} if isinstance(value, bytes) else {"path": value, "bytes": None}


def given(value: Mapping[str, Any]) -> str | bytes:
    """The reference or the bytes that `kept` was given."""
    found: str | bytes = value["path"] if value["bytes"] is None else value["bytes"]
    return found


def identity(value: str | bytes) -> list[str | int]:
    """What the fingerprint knows an image by: its name and size in bytes, wherever its folder lies; or its content."""
    if isinstance(value, bytes):
        return [hashlib.sha256(value).hexdigest(), len(value)]
    if value.startswith(S3):
        return [posixpath.basename(value), beginning(value)[1]]
    return [os.path.basename(value), os.path.getsize(value)]


def fetched(value: str | bytes) -> str | bytes:
    """What can be opened: an image in S3 as its bytes, fetched anew each time; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(S3):
        return value
    store, key = _placed(value)
    return store.get(key)


def looked_at(row: Row, columns: Mapping[str, Kind]) -> dict[str, Any]:
    """The row as `Task.check` sees it: of images in S3 the bytes that tell their size, of masks in S3 all of them."""
    seen = dict(row)
    for name, kind in columns.items():
        value = row.get(name)
        if kind in ("image", "mask") and isinstance(value, str) and value.startswith(S3):
            seen[name] = fetched(value) if kind == "mask" else beginning(value)[0]
    return seen


@lru_cache(maxsize=4 * _AHEAD)
def beginning(url: str) -> tuple[bytes, int]:
    """The first bytes of an image in S3, as many as its header needs, and how many it has; NotFound, or StoreError.

    The last few are remembered: a row is looked at several times when it is checked.
    """
    store, key = _placed(url)
    head, total = store.start(key, _BEGINNING)
    if len(head) < total:
        try:
            seen_size(head)
        except DataError:  # the header stands elsewhere (TIFF), or reading it needs the whole file (WebP)
            head = store.get(key)
    return head, total


def ahead(items: Iterable[T], urls: Callable[[T], Iterable[str]]) -> Iterator[T]:
    """The same items in the same order, the headers of the images in S3 that `urls(item)` lists fetched before.

    What cannot be fetched is left to whoever asks for it, who can say which row it belongs to.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="regraft-images") as pool:
        while piece := list(islice(waiting, _AHEAD)):
            wanted = {url for item in piece for url in urls(item)}
            if wanted:
                list(pool.map(_try, wanted))
            yield from piece


def _try(url: str) -> None:
    with suppress(RegraftError):
        beginning(url)


def _placed(url: str) -> tuple[ObjectStore, str]:
    bucket, _, key = url.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise RequestError("names no object: write s3://bucket/key")
    return _bucket(bucket), key


@lru_cache(maxsize=16)
def _bucket(name: str) -> ObjectStore:
    return open_store(f"{S3}{name}")
