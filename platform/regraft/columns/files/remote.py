"""Files in S3 that rows name by URL: their beginnings, their contents, and fetching ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import TypeVar

from regraft.columns.files.content import (
    LARGE,
    LARGE_FILES,
    Check,
    Content,
    ContentCache,
    forget_embedded,
    judged,
)
from regraft.contracts.column import BadCell, Column
from regraft.contracts.file_ref import EmbeddedFile, FileRef
from regraft.errors import Damaged, RegraftError, RequestError
from regraft.store.objects import ObjectStore, open_store

S3 = "s3://"
_BEGINNING = 1 << 17
"""Bytes that hold the header of nearly every image, with a camera's notes before it."""
_AHEAD = 64
"""Files in S3 whose beginnings are fetched at once: one after the other each would cost a round trip."""
_THREADS = 16

T = TypeVar("T")


def contents(value: str | bytes) -> str | bytes:
    """Return what can be opened: a file in S3 as its bytes, fetched at each call; anything else as it is.

    Raises DataError where the bytes are not those that were checked when the data were read.
    """
    if not isinstance(value, str) or not value.startswith(S3):
        return value
    return value.read(_get) if isinstance(value, FileRef) else _get(value)


Start = Callable[[bytes, int], str]
"""Returns what is wrong with a file by its first bytes and its size, or an empty text."""


def object_examined(
    url: str, cache: ContentCache, method: str, check: Check, *, start: Start = lambda head, size: ""
) -> Content:
    """Return the content of a file in S3, fetched and checked unless it is remembered. NotFound, or StoreError.

    Of a large object `start` is asked first what is wrong with its beginning: a film of some gigabytes is not fetched
    to find that it is no picture.
    """
    store, key = _location(url)
    tag = store.tag(key)
    if known := cache.find(url, tag, method):
        return known
    try:
        body, tag = store.read(key, LARGE)
        content = judged(body, cache, method, check)
    except Damaged:  # it has more bytes than that, and none was read
        head, size = store.read_start(key, _BEGINNING)
        if problem := start(head, size):
            return Content("", size, problem)
        with LARGE_FILES:
            body, tag = store.read(key)
            content = judged(body, cache, method, check)
    cache.keep(url, tag, content)
    return content


@lru_cache(maxsize=4 * _AHEAD)
def beginning(url: str, complete: Callable[[bytes], bool] | None = None) -> tuple[bytes, int]:
    """Return the first bytes of a file in S3 and its size. NotFound, or StoreError.

    All of the file is fetched where `complete` returns False for the first bytes. The last few results are
    remembered: a row is read several times while it is checked.
    """
    store, key = _location(url)
    head, total = store.read_start(key, _BEGINNING)
    if len(head) < total and complete is not None and not complete(head):
        head = store.get(key)
    return head, total


def fetched_ahead(items: Iterable[T], files: Callable[[T], Iterable[tuple[Column, str | EmbeddedFile]]]) -> Iterator[T]:
    """Yield the same items in the same order, with the files that `files(item)` lists prefetched over all cores.

    An error of a fetch is dropped here: parsing the row meets it again, and can name the row.
    """
    waiting = iter(items)
    met: set[Column] = set()
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="regraft-files") as pool:
            while piece := list(islice(waiting, _AHEAD)):
                wanted = {pair for item in piece for pair in files(item)}
                met.update(column for column, _ in wanted)
                unknown = [pair for pair in wanted if not pair[0].is_known(pair[1])]
                if unknown:
                    list(pool.map(_try, unknown))
                yield from piece
                forget_embedded()
    finally:
        for column in met:
            column.fetched_all()


def _try(pair: tuple[Column, str | EmbeddedFile]) -> None:
    column, file = pair
    with suppress(RegraftError, BadCell, OSError):
        column.prefetch(file)


def _get(url: str) -> bytes:
    store, key = _location(url)
    return store.get(key)


def _location(url: str) -> tuple[ObjectStore, str]:
    bucket, _, key = url.removeprefix(S3).partition("/")
    if not bucket or not key:
        raise RequestError("names no object: write s3://bucket/key")
    return _bucket(bucket), key


@lru_cache(maxsize=16)
def _bucket(name: str) -> ObjectStore:
    return open_store(f"{S3}{name}")
