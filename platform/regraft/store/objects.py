"""The interface of a store: keys that hold bytes, with atomic writes and compare-and-swap.

It has two implementations, `folder.FolderStore` and `s3.S3Store`; `open_store` chooses one by the URL.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from regraft.errors import RequestError, StoreError

Body = bytes | bytearray | memoryview | Path
"""Content to write: bytes in memory, or a local file that is streamed."""

RESERVED = ".regraft-"
"""Prefix of names that the store uses itself (temporary files, locks); they are never listed."""

PROBE = RESERVED + "check-"
"""Prefix of the probe objects of `check`, the only reserved names that are valid keys."""

MARK = "regraft.json"
"""The name at the root of a store that marks it; it is never listed."""

_IMPLEMENTATIONS = {"file": "regraft.store.folder:FolderStore", "s3": "regraft.store.s3:S3Store"}
_MOST_KEY_BYTES = 900  # S3 allows 1024, which include the prefix of the store


@dataclass(frozen=True)
class Stat:
    """One listed object: size in bytes, modified in Unix seconds.

    `tag` changes when the object does; only the tag that `read` returns may be given to `put_if_match`.
    """

    key: str
    size: int
    modified: float
    tag: str


class ObjectStore(ABC):
    """Keys that hold bytes. All methods are thread-safe; each process opens its own store by `url`."""

    url: str
    """The canonical form of the URL that the user wrote: `open_store(store.url)` is the same store."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """Return the bytes of `key`. Raises NotFound if it does not exist."""

    def read_start(self, key: str, size: int) -> tuple[bytes, int]:
        """Return the first `size` bytes of `key` (all if it has fewer) and its total number of bytes."""
        data = self.get(key)
        return data[:size], len(data)

    @abstractmethod
    def fetch(self, key: str, path: Path) -> None:
        """Stream `key` into the local file `path`, which is created atomically. Raises NotFound as `get` does."""

    @abstractmethod
    def read(self, key: str, most: int | None = None) -> tuple[bytes, str]:
        """Return the bytes of `key` and the version tag that `put_if_match` compares.

        Raises Damaged, before anything is read, for an object of more than `most` bytes.
        """

    def tag(self, key: str) -> str:
        """Return the version tag of `key` without reading all of it, where the store can. Raises NotFound."""
        return self.read(key)[1]

    @abstractmethod
    def put(self, key: str, body: Body) -> None:
        """Write or replace `key` atomically: a reader sees the old bytes or the new ones."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> None:
        """Write `key`, or raise Conflict if it exists. Among concurrent writers exactly one succeeds.

        `data` must differ between writers (contain a unique id): after a lost response, the bytes show whether this
        write or another one succeeded.
        """

    @abstractmethod
    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        """Replace `key` if it is unchanged since `read` returned `tag`, else raise Conflict.

        `data` must be unique, as in `put_if_absent`.
        """

    def free_bytes(self) -> int | None:
        """Return how much the store can still take, or None where nothing is known to bound it."""
        return None

    def now(self) -> float:
        """Return the store's own time in Unix seconds: what the times of its objects are compared with.

        The clocks of hosts may differ by hours, or jump.
        """
        key = f"clock/{uuid4().hex}"
        self.put(key, b"")
        try:
            return max((stat.modified for stat in self.list(key)), default=time.time())
        finally:
            self.delete([key])

    def begin(self) -> None:
        """Admit the first command. Raises RequestError for a folder that exists and holds no store; marks a prefix."""
        return

    def create(self) -> None:
        """Make a store at this place, in an existing folder too; a store that is there stays as it is."""
        self.begin()

    def expect(self) -> None:
        """Require that the store is there already: from now on no write creates it."""
        return

    def hold(self) -> None:
        """Remember which store is there; StoreGone is raised once it is not there any more."""
        return

    def verify(self) -> None:
        """Raise StoreGone where the store that was opened is not there any more."""
        return

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Yield every object whose key begins with `prefix`, in the order of the keys, without incomplete writes."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete `keys`, in any order; keys that do not exist are ignored."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether `key` holds an object."""

    @abstractmethod
    def check(self) -> None:
        """Write, read and delete a probe object. Raises StoreError or PermissionDenied if the store is unusable."""

    @abstractmethod
    def local(self, key: str) -> Path | None:
        """Return the file of `key` in a folder store, to be memory-mapped and never written; None for other stores."""

    @abstractmethod
    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        """Delete incomplete writes and probes of dead processes older than `older_than_s` seconds; return names."""


def open_store(url: str) -> ObjectStore:
    """Open the store at `url`: `s3://bucket/prefix`, a folder, or `file:///folder`.

    Nothing is read or created yet; call `check` to detect an unusable store early. Raises RequestError for an invalid
    URL.
    """
    scheme, _, name = _implementation(url).partition(":")
    implementation: type[ObjectStore] = getattr(importlib.import_module(scheme), name)
    return implementation(*_arguments(url))


def open_existing(url: str) -> ObjectStore:
    """Open a store that another part of this command has begun: no write creates it where it is gone."""
    store = open_store(url)
    store.expect()
    return store


def _implementation(url: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if found is None:
        if not url or "\0" in url or url.startswith(("s3:", "file:")):
            raise RequestError(f"store {url!r}: write a folder, or s3://bucket/prefix with two slashes")
        return _IMPLEMENTATIONS["file"]
    scheme = found[1].lower()
    if scheme in _IMPLEMENTATIONS:
        return _IMPLEMENTATIONS[scheme]
    meant = "; did you mean s3://?" if scheme.startswith("s3") else ""
    raise RequestError(f"store {url!r}: unknown scheme {scheme}://; allowed: a folder, file://, s3://{meant}")


def _arguments(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    if parts.scheme == "s3" and url[2:5] == "://":
        if parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc:
            raise RequestError(
                "an s3 store is s3://bucket/prefix and nothing else; "
                "give the server by AWS_ENDPOINT_URL and keys by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return parts.netloc, parts.path
    if url.lower().startswith("file://"):
        if parts.netloc not in ("", "localhost"):
            raise RequestError(
                f"store {url!r}: file:// names a folder of this machine; write file:///{parts.netloc}..."
            )
        return (unquote(parts.path),)
    return (url,)


def checked(key: str) -> str:
    """Return `key` if it is a safe relative path; else raise RequestError."""
    parts = key.split("/")
    wrong = next((part for part in parts if not valid_part(part)), None)
    if wrong is not None or len(key.encode("utf-8", "replace")) > _MOST_KEY_BYTES:
        raise RequestError(
            f"key {key[:200]!r} is not allowed: parts between single slashes, none empty, '.' or '..', "
            f"no backslash or control character, none beginning with {RESERVED!r}, at most {_MOST_KEY_BYTES} bytes"
        )
    return key


def valid_part(part: str) -> bool:
    """Return whether one part of a key (between slashes) is valid."""
    if part in ("", ".", "..") or (part.startswith(RESERVED) and not part.startswith(PROBE)):
        return False
    return part.isprintable() and "\\" not in part


def is_listable(key: str) -> bool:
    """Return whether a key found in storage belongs to the store: other tools leave folder markers, for example."""
    return key != MARK and all(valid_part(part) and not part.startswith(RESERVED) for part in key.split("/"))


def size_of(body: Body) -> int:
    """Return the size of `body` in bytes. Raises StoreError for a file that cannot be read."""
    if not isinstance(body, Path):
        return memoryview(body).nbytes
    try:
        return body.stat().st_size
    except OSError as error:
        raise StoreError(f"the local file to be stored cannot be read ({error.strerror})", str(body)) from error


def chunks(body: Body, size: int) -> Iterator[memoryview]:
    """Yield `body` in pieces of at most `size` bytes, without reading a file into memory at once."""
    if not isinstance(body, Path):
        view = memoryview(body).cast("B")
        yield from (view[at : at + size] for at in range(0, len(view), size))
        return
    try:
        with body.open("rb") as file:
            while piece := file.read(size):
                yield memoryview(piece)
    except OSError as error:
        raise StoreError(f"the local file to be stored cannot be read ({error.strerror})", str(body)) from error


def absolute(folder: str) -> str:
    """Return a folder as an absolute path, with `~` expanded and symbolic links unresolved."""
    return os.path.abspath(os.path.expanduser(folder))
