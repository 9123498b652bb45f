"""Files known by their content: each is hashed and checked once, and remembered while it is unchanged.

A file on this machine counts as unchanged while its path, device, inode, size and both times (in ns) are. A result is
not remembered while either time is within `SETTLED_S` of the hashing: a later write could then leave all of them equal.
An object in S3 counts as unchanged while its ETag is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.contracts.file_ref import on_other_bytes
from regraft.errors import StoreError
from regraft.store.atomic_files import writing_locally
from regraft.store.machine_cache import cache_folder

log = logging.getLogger(__name__)
SETTLED_S = 2.0
"""Age of a file's times from which equal times mean equal content; file systems tick more finely than that."""
FILE = "files.sqlite"
_WAITING = 1024
"""Results that are written to the disk together."""
_SCHEMA = """
create table if not exists files (name text primary key, tag text, sha256 text, size integer) without rowid;
create table if not exists checks (sha256 text, method text, problem text, primary key (sha256, method)) without rowid;
"""

_CHECKS = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
"""Checks at a time in this process: more of them would hold more decoded pictures, and be no faster."""

LARGE = 32 << 20
"""Bytes from which the beginning of a file is looked at before all of it is read, and files are read one at a time."""
LARGE_FILES = threading.BoundedSemaphore(1)

_making = threading.Lock()
_caches: dict[tuple[str, int], ContentCache] = {}

Check = Callable[[bytes], str]
"""Returns what is wrong with a file's content, or an empty text."""


@dataclass(frozen=True, slots=True)
class Content:
    """The hash, size and verdict of a file's content."""

    sha256: str
    size: int
    problem: str
    """What is wrong with it, as the rest of a sentence about the file; empty where nothing is."""


Prefetched = tuple[Content, str]
"""A content, and the place that the file's name turned out to mean."""
_prefetched: dict[tuple[str, str], Prefetched] = {}
_embedded: dict[tuple[str, int], tuple[bytes, Content]] = {}
"""Results by the identity of a content, which is kept with it so that no other object takes its place."""


def local_tag(path: str) -> tuple[str, float]:
    """Return the tag of a file's present state, and the later of its two times in Unix seconds. OSError."""
    found = os.stat(path)
    tag = f"{found.st_dev}-{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return tag, max(found.st_mtime, found.st_ctime)


class ContentCache:
    """Remembered results of one machine, in a small database; without one that can be written, in memory alone."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[str, str, int]] = {}
        self._verdicts: dict[tuple[str, str], str] = {}
        """Results that are not in the database yet, which no transaction waits for."""
        try:
            with writing_locally(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self._database = _database(str(folder / FILE))
        except (StoreError, sqlite3.Error) as error:
            log.info("contents of files are remembered by this process alone: %s", error)
            self._database = _database(":memory:")

    def find(self, name: str, tag: str, method: str) -> Content | None:
        """Return what is known about the file in this state, checked by this method; None if nothing is."""
        with self._lock:
            file = self._files.get(name) or self._row("select tag, sha256, size from files where name = ?", name)
            if file is None or file[0] != tag:
                return None
            problem = self._verdict(file[1], method)
        return None if problem is None else Content(file[1], file[2], problem)

    def verdict(self, sha256: str, method: str) -> str | None:
        """Return the verdict about this content under any name, or None."""
        with self._lock:
            return self._verdict(sha256, method)

    def keep(self, name: str, tag: str, content: Content) -> None:
        """Remember the content of a file in this state; results reach the disk in groups."""
        with self._lock:
            self._files[name] = (tag, content.sha256, content.size)
            if len(self._files) >= _WAITING:
                self._write()

    def forget(self, name: str) -> None:
        """Forget the content of a file, whatever state it is in: the next reading hashes it again."""
        with self._lock:
            self._files.pop(name, None)
            try:
                with self._database:
                    self._database.execute("delete from files where name = ?", (name,))
            except sqlite3.Error as error:
                log.warning("what is known about %s cannot be forgotten: %s", name, error)

    def keep_verdict(self, sha256: str, method: str, problem: str) -> None:
        """Remember the verdict about a content, whatever files hold it."""
        with self._lock:
            self._verdicts[sha256, method] = problem
            if len(self._verdicts) >= _WAITING:
                self._write()

    def flush(self) -> None:
        """Write what waits to the disk."""
        with self._lock:
            self._write()

    def _verdict(self, sha256: str, method: str) -> str | None:
        known = self._verdicts.get((sha256, method))
        if known is not None:
            return known
        found = self._row("select problem from checks where sha256 = ? and method = ?", sha256, method)
        return None if found is None else str(found[0])

    def _row(self, query: str, *values: str) -> tuple[Any, ...] | None:
        try:
            found: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            log.info("contents of files cannot be looked up: %s", error)
            return None
        return found

    def _write(self) -> None:
        try:
            self._insert()
        except sqlite3.Error as error:
            log.warning("contents of files are remembered by this process alone: %s", error)
            self._database = _database(":memory:")
            self._insert()
        self._files.clear()
        self._verdicts.clear()

    def _insert(self) -> None:
        files = [(name, *file) for name, file in self._files.items()]
        verdicts = [(*key, problem) for key, problem in self._verdicts.items()]
        with self._database:
            self._database.executemany("insert or replace into files values (?, ?, ?, ?)", files)
            self._database.executemany("insert or replace into checks values (?, ?, ?)", verdicts)


def examined(
    path: str, cache: ContentCache, method: str, check: Check, *, header: Callable[[str], str] = lambda path: ""
) -> Content:
    """Return the content of a file on this machine, hashed and checked unless it is remembered. OSError.

    The check gets the very bytes that were hashed. Of a large file `header` is asked first what is wrong with its
    beginning: a film of some gigabytes is not read whole to find that it is no picture.
    """
    if known := remembered(path, cache, method):
        return known
    tag, _ = local_tag(path)
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise OSError("it is no regular file")
    large = state.st_size > LARGE
    if large and (problem := header(path)):
        return Content("", state.st_size, problem)
    with LARGE_FILES if large else nullcontext():
        content = judged(Path(path).read_bytes(), cache, method, check)
    after, changed = local_tag(path)
    if after == tag and time.time() - changed > SETTLED_S:
        cache.keep(path, tag, content)
    return content


def judged(body: bytes, cache: ContentCache, method: str, check: Check) -> Content:
    """Return the hash and the verdict of bytes; content that is known under another name is not checked again."""
    sha256 = hashlib.sha256(body).hexdigest()
    problem = cache.verdict(sha256, method)
    if problem is None:
        with _CHECKS:
            problem = check(body)
        cache.keep_verdict(sha256, method, problem)
    return Content(sha256, len(body), problem)


def remembered(path: str, cache: ContentCache, method: str) -> Content | None:
    """Return what is known about a file on this machine in its present state, or None. OSError."""
    return cache.find(path, local_tag(path)[0], method)


def content_cache(folder: str, process: int) -> ContentCache:
    """Return the cache in that folder for that process: a database is not shared with a forked child."""
    with _making:
        if (folder, process) not in _caches:
            _caches[folder, process] = ContentCache(Path(folder))
        return _caches[folder, process]


def forget(name: str) -> None:
    """Forget what this machine knows about a file, which turned out to hold other bytes."""
    for key in [key for key in _prefetched if key[1] == name]:
        del _prefetched[key]
    content_cache(str(cache_folder("content")), os.getpid()).forget(name)


on_other_bytes(forget)


def keep_prefetched(method: str, file: str, found: Prefetched) -> None:
    """Keep the result of a prefetch for the row that it was made for."""
    _prefetched[method, file] = found


def prefetched(method: str, file: str) -> Prefetched | None:
    """Return and forget the result of a prefetch."""
    return _prefetched.pop((method, file), None)


def forget_prefetched() -> None:
    """Forget results that no row has asked for, so that no later reading takes them for its own."""
    _prefetched.clear()
    _embedded.clear()


def keep_embedded(method: str, content: bytes, found: Content) -> None:
    """Keep the result for a content that stands in a row, by the very object, until the next rows are looked at."""
    _embedded[method, id(content)] = (content, found)


def embedded(method: str, content: bytes) -> Content | None:
    """Return what `keep_embedded` kept for this object."""
    kept = _embedded.get((method, id(content)))
    return kept[1] if kept else None


def forget_embedded() -> None:
    """Forget results for contents that stand in rows, which would else stay in memory."""
    _embedded.clear()


def known_content(body: bytes, cache: ContentCache, method: str) -> Content | None:
    """Return the hash and the verdict of bytes whose content was checked before, or None."""
    sha256 = hashlib.sha256(body).hexdigest()
    problem = cache.verdict(sha256, method)
    return None if problem is None else Content(sha256, len(body), problem)


def _renew_lock() -> None:
    """Replace a lock that another thread may have held when this process was forked."""
    global _making
    _making = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _database(name: str) -> sqlite3.Connection:
    made = sqlite3.connect(name, timeout=10, check_same_thread=False)
    made.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + _SCHEMA)
    return made
