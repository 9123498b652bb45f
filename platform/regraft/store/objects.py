"""What a store promises: keys that hold bytes, written whole or not at all, with compare-and-swap.

Two implementations keep the promise, `folder.FolderStore` and `s3.S3Store`; `open_store` picks one by its url.
"""

from __future__ import annotations

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from regraft.errors import RequestError, StoreError

Body = bytes | bytearray | memoryview | Path
"""What can be put: bytes in memory, or a local file that is streamed."""

RESERVED = ".regraft-"
"""Names that begin so belong to the store itself (temporary files, locks); no listing shows them."""

PROBE = RESERVED + "check-"
"""The one kind of reserved name that is written as a key: what `check` writes and takes away again."""

_IMPLEMENTATIONS = {"file": "regraft.store.folder:FolderStore", "s3": "regraft.store.s3:S3Store"}
_MOST_KEY_BYTES = 900  # S3 allows 1024, of which the store's own prefix takes a part


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
    """Keys that hold bytes. Every method may be called from any thread; each process opens its own by `url`."""

    url: str
    """What the user wrote, in its one canonical spelling: `open_store(store.url)` is the same store."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The bytes of `key`; NotFound when it does not exist."""

    def start(self, key: str, size: int) -> tuple[bytes, int]:
        """The first `size` bytes of `key` (all of them where it has fewer), and how many it has."""
        whole = self.get(key)
        return whole[:size], len(whole)

    @abstractmethod
    def fetch(self, key: str, path: Path) -> None:
        """Stream `key` into the local file `path`, which appears whole or not at all; NotFound as in `get`."""

    @abstractmethod
    def read(self, key: str) -> tuple[bytes, str]:
        """The bytes of `key` and the version tag that `put_if_match` compares."""

    @abstractmethod
    def put(self, key: str, body: Body) -> None:
        """Write or replace `key`, all or nothing: a reader sees the old bytes or the new ones."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> None:
        """Write `key` unless it exists, in which case Conflict. Of many writers at once, one wins.

        `data` must differ between writers (hold a unique id): over a network whose answer was lost, a store tells
        its own success from somebody else's by the bytes.
        """

    @abstractmethod
    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        """Replace `key` if it still is what `read` returned with `tag`; Conflict when it changed or is gone.

        `data` must be unique, as in `put_if_absent`.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, in the order of the keys. Nothing half-written is listed."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove `keys`; one that does not exist is fine. Several may go in any order."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether `key` holds an object."""

    @abstractmethod
    def check(self) -> None:
        """Write, read and delete a probe object; raises StoreError or PermissionDenied where runs could not be kept."""

    @abstractmethod
    def local(self, key: str) -> Path | None:
        """The real file of `key` in a folder store, to be memory-mapped and never written; None elsewhere."""

    @abstractmethod
    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        """Remove what dead writers left half-written longer ago than that; the names of what went."""


def open_store(url: str) -> ObjectStore:
    """The store at `url`: `s3://bucket/prefix`, a folder, or `file:///folder`.

    Nothing is read or created yet; call `check` for an early, clear refusal.
    """
    scheme, _, name = _implementation(url).partition(":")
    implementation: type[ObjectStore] = getattr(importlib.import_module(scheme), name)
    return implementation(*_arguments(url))


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
    """`key` itself when it is a safe relative path; RequestError otherwise."""
    parts = key.split("/")
    wrong = next((part for part in parts if not speakable(part)), None)
    if wrong is not None or len(key.encode("utf-8", "replace")) > _MOST_KEY_BYTES:
        raise RequestError(
            f"key {key[:200]!r} is not allowed: parts between single slashes, none empty, '.' or '..', "
            f"no backslash or control character, none beginning with {RESERVED!r}, at most {_MOST_KEY_BYTES} bytes"
        )
    return key


def speakable(part: str) -> bool:
    """Whether one part of a key (between slashes) may be written and is listed."""
    if part in ("", ".", "..") or (part.startswith(RESERVED) and not part.startswith(PROBE)):
        return False
    return part.isprintable() and "\\" not in part


def listable(key: str) -> bool:
    """Whether a key found in storage is one of ours: other tools leave folder markers and stranger things."""
    return all(speakable(part) and not part.startswith(RESERVED) for part in key.split("/"))


def size_of(body: Body) -> int:
    """Bytes in `body`; StoreError when it is a file that is not there."""
    if not isinstance(body, Path):
        return memoryview(body).nbytes
    try:
        return body.stat().st_size
    except OSError as error:
        raise StoreError(f"the local file to be stored cannot be read ({error.strerror})", str(body)) from error


def chunks(body: Body, size: int) -> Iterator[memoryview]:
    """`body` in pieces of at most `size` bytes, never all of a file at once."""
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
    """A folder as the user wrote it, absolute, `~` expanded, symbolic links left as they are."""
    return os.path.abspath(os.path.expanduser(folder))
