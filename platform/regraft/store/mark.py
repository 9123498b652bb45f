"""The mark of a store: `regraft.json` at its root, with an id.

A process remembers which store it opened and looks again before it writes, and where it finds nothing. A folder whose
store was there and is no longer is a lost mount, for example: it is not an empty store, and nothing is created in it.
A store of an earlier edition has documents and no mark; it gets one at its next write.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from regraft.errors import Conflict, Damaged, NotFound, RequestError, StoreGone
from regraft.store.atomic_files import sync_folder, temporary_file, write_all, writing
from regraft.store.objects import MARK, RESERVED

FORMAT = 1
_MOST_BYTES = 4096
_DOCUMENTS = {"features", "models", "runs", "searches"}
"""Folders at the root of a store; one of them without a mark shows a store of an earlier edition."""
_TRUSTED_S = 5.0
"""How long the mark of a bucket is trusted: looking costs a request."""

_Place = tuple[int, ...]


def new_mark() -> bytes:
    """Return a mark with an id of its own."""
    made = {"format": FORMAT, "id": uuid4().hex, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return json.dumps(made).encode()


def id_of(data: bytes, url: str) -> str:
    """Return the id in a mark. Raises Damaged."""
    found: object = None
    with suppress(ValueError, RecursionError):
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
    if isinstance(found, dict) and isinstance(found.get("id"), str) and found["id"]:
        return str(found["id"])
    raise Damaged(
        f"{MARK}, which marks the store, has no id: restore it, or delete it and the next write makes another", url
    )


def gone(url: str, what: str = "the store is not there any more") -> StoreGone:
    """Return the error for a store that was there."""
    remedy = "restore it" if url.startswith("s3://") else "mount it again"
    return StoreGone(f"{what} ({MARK} is missing at its root): {remedy}, then give the same command again", url)


def replaced(url: str) -> StoreGone:
    """Return the error for a root that holds another store now."""
    return StoreGone("another store is at its place now: mount the one that was opened, or begin again", url)


@dataclass(frozen=True)
class _Sight:
    """What was seen of a store: its id ("" without a mark), and the file or folder in which it was seen."""

    id: str
    place: _Place


class FolderMark:
    """The mark of a folder; one look costs one `stat`."""

    def __init__(self, root: Path, url: str) -> None:
        self._root = root
        self._file = root / MARK
        self._url = url
        self._seen: _Sight | None = None
        self._wrote = False
        """Whether this object wrote: a reader follows the store that is there, a writer keeps to its own."""
        self.required = False
        """Whether the store must be there already, so that no write creates it."""

    def see(self) -> bool:
        """Remember the store that is there; return whether there is one."""
        if self._seen is None:
            with writing(self._url):
                self._seen = self._sight()
        return self._seen is not None

    def verify(self) -> None:
        """Raise StoreGone where the store that was seen is not there any more."""
        seen = self._seen
        if seen is None:
            return
        with writing(self._url):
            if (_file_place(self._file) if seen.id else _folder_place(self._root)) == seen.place:
                return
            now = self._sight()
        if now is None or (not now.id and seen.id):
            raise gone(self._url)
        if seen.id and now.id != seen.id and self._wrote:
            raise replaced(self._url)
        self._seen = now

    def before_write(self) -> None:
        """Admit a write: verify the store that was seen, mark one that has no mark, create one where there is none."""
        found, self._wrote = self.see(), True
        if found:
            self.verify()
            if self._seen is not None and self._seen.id:
                return
        elif self.required:
            raise gone(self._url, "there is no store")
        self._write()

    def begin(self) -> None:
        """Admit the first command. Raises RequestError for a folder that exists and holds no store."""
        found, self._wrote = self.see(), True
        if found:
            self.verify()
        elif self._root.is_dir():
            raise RequestError(
                "this folder exists and holds no store: if its store is on a mount, mount it; to make a new one here, "
                "pass --create (in Python: regraft.create_store), or name a folder that does not exist yet",
                where=self._url,
            )

    def _sight(self) -> _Sight | None:
        if (place := _file_place(self._file)) is not None:
            with self._file.open("rb") as file:
                return _Sight(id_of(file.read(_MOST_BYTES + 1), self._url), place)
        where = _folder_place(self._root)
        return _Sight("", where) if where is not None and _has_documents(self._root) else None

    def _write(self) -> None:
        with writing(self._url):
            self._root.mkdir(parents=True, exist_ok=True)
            sync_folder(self._root.parent)
            with temporary_file(self._file) as (file, temporary):
                write_all(file, memoryview(new_mark()))
                os.fsync(file)
                _publish(temporary, self._file)
            sync_folder(self._root)
            self._seen = self._sight()


class ObjectMark:
    """The mark of a prefix in a bucket, looked at again after some seconds."""

    def __init__(self, url: str, read: Callable[[], bytes], create: Callable[[bytes], None]) -> None:
        self._url = url
        self._read = read
        self._create = create
        self._id = ""
        self._looked = float("-inf")
        self._wrote = False
        self._pending = False

    def expect(self) -> None:
        """Remember the store's id at the first write; a store without a mark has none."""
        self._pending = True

    def see(self) -> bool:
        """Remember the id of the store that is there; return whether it has one."""
        if not self._id:
            with suppress(NotFound):
                self._id = id_of(self._read(), self._url)
                self._looked = time.monotonic()
        self._pending = False
        return bool(self._id)

    def begin(self) -> None:
        """Mark the prefix unless it is marked."""
        self._wrote = True
        known = self._id
        if self.see():
            if known:
                self.verify(now=True)
            return
        with suppress(Conflict):  # another first command was faster
            self._create(new_mark())
        self.see()

    def before_write(self) -> None:
        """Admit a write into the store that was seen, by a look that is some seconds old."""
        self._wrote = True
        if self._pending:
            self.see()
        self.verify()

    def verify(self, *, now: bool = False) -> None:
        """Raise StoreGone where the store that was seen is not there any more."""
        if not self._id or (not now and time.monotonic() - self._looked < _TRUSTED_S):
            return
        try:
            found = id_of(self._read(), self._url)
        except NotFound as error:
            raise gone(self._url) from error
        if found != self._id and self._wrote:
            raise replaced(self._url)
        self._id = found
        self._looked = time.monotonic()

    @contextmanager
    def explain_missing(self, key: str) -> Iterator[None]:
        """Raise StoreGone in place of NotFound where the whole store is not there any more."""
        try:
            yield
        except NotFound:
            if key != MARK:
                self.verify(now=True)
            raise


def _file_place(path: Path) -> _Place | None:
    """Return what differs for another file, or None where there is none."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _folder_place(path: Path) -> _Place | None:
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _has_documents(root: Path) -> bool:
    """Return whether a folder holds what a store writes."""
    try:
        with os.scandir(root) as found:
            return any(entry.name in _DOCUMENTS or entry.name.startswith(RESERVED) for entry in found)
    except NotADirectoryError:
        return False


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name unless another process was faster."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # no hard links
        if not path.exists():
            os.replace(temporary, path)
