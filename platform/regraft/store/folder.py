"""How does a folder keep the promise of a store? By temporary files, fsync, rename, hard links and one lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from regraft.errors import Conflict, NotFound, RequestError, StoreError
from regraft.store.atomic_files import (
    TEMPORARY,
    fresh_file,
    reading,
    sync_folder,
    unlink,
    write_all,
    writing,
    writing_here,
)
from regraft.store.objects import PROBE, RESERVED, Body, ObjectStore, Stat, absolute, checked, chunks, speakable

_LOCK = RESERVED + "lock"
_PIECE = 4 << 20
_LOCK_PATIENCE_S = 30.0
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStore(ObjectStore):
    """A store in a folder, created at the first write; on one machine, or on a network mount that every node sees.

    A key is a file below the root. Symbolic links below the root are neither followed nor listed.
    """

    def __init__(self, folder: str) -> None:
        self.url = absolute(folder)
        self.root = Path(os.path.realpath(self.url))

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with reading(key, self.url):
            return path.read_bytes()

    def read(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, _tag(data)

    def fetch(self, key: str, path: Path) -> None:
        source = self._path(key)
        with reading(key, self.url):
            file = source.open("rb")
        with file, writing_here(path), fresh_file(path) as (target, temporary):
            while piece := file.read(_PIECE):
                write_all(target, memoryview(piece))
            os.replace(temporary, path)

    def put(self, key: str, body: Body) -> None:
        path = self._path(key)
        with writing(self.url), self._written(path, body) as temporary:
            with self._locked():
                os.replace(temporary, path)
            sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with writing(self.url), self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError as error:
                # Over NFS a repeated request can be refused by its own first success.
                if not os.path.samefile(temporary, path):
                    raise Conflict(f"{key} exists already", self.url) from error
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                self._rename_if_absent(temporary, path, key)
            sync_folder(path.parent)

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        path = self._path(key)
        if not path.is_file():
            raise Conflict(f"{key} is gone", self.url)
        with writing(self.url), self._written(path, data) as temporary:
            with self._locked():
                if not path.is_file() or _tag(path.read_bytes()) != tag:
                    raise Conflict(f"{key} was changed by somebody else", self.url)
                os.replace(temporary, path)
            sync_folder(path.parent)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        folder, slash, start = prefix.rpartition("/")
        if slash:
            self._path(folder)
        yield from self._walk(folder + slash, start)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            if not path.is_file():
                continue
            with writing(self.url):
                with self._locked():
                    unlink(path)
                sync_folder(path.parent)
                self._prune(path.parent)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with reading(key, self.url):
            return path.is_file()

    def local(self, key: str) -> Path | None:
        if not self.exists(key):
            raise NotFound(f"{key} is not in the store", self.url)
        return self._path(key)

    def check(self) -> None:
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        data = uuid4().hex.encode()
        path = self.root / (PROBE + uuid4().hex)
        try:
            with writing(self.url):
                with self._written(path, data) as temporary:
                    os.replace(temporary, path)
                kept = path.read_bytes()
                unlink(path)
            if kept != data:
                raise StoreError("the folder does not give back what was written to it", self.url)
        finally:
            for folder in new:
                with suppress(OSError):
                    folder.rmdir()

    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        before = time.time() - older_than_s
        gone = []
        with writing(self.url):
            for folder, _, names in os.walk(self.root):
                for name in names:
                    path = Path(folder, name)
                    if name.startswith((TEMPORARY, PROBE)) and _modified(path) < before:
                        unlink(path)
                        gone.append(str(path.relative_to(self.root)))
        return tuple(sorted(gone))

    def _path(self, key: str) -> Path:
        path = self.root.joinpath(checked(key))
        if os.path.realpath(path) != str(path):
            raise RequestError(f"key {key!r} leads through a symbolic link, which a store does not follow", self.url)
        return path

    def _walk(self, folder: str, start: str) -> Iterator[Stat]:
        """`folder` is "" or ends with a slash; only names that begin with `start`."""
        try:
            with reading(folder, self.url), os.scandir(self.root / folder) as found:
                entries = sorted((e for e in found if e.name.startswith(start) and _listed(e)), key=_order)
        except NotFound:
            return
        for entry in entries:
            key = folder + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(key + "/", "")
                continue
            with suppress(FileNotFoundError):  # deleted since the folder was read
                stat = entry.stat(follow_symlinks=False)
                yield Stat(key, stat.st_size, stat.st_mtime, f"{stat.st_mtime_ns}-{stat.st_ino}-{stat.st_size}")

    @contextmanager
    def _written(self, path: Path, body: Body) -> Iterator[Path]:
        """A temporary file beside `path` that holds `body` and is on disk; gone afterwards unless renamed."""
        with fresh_file(path) as (file, temporary):
            for piece in chunks(body, _PIECE):
                write_all(file, piece)
            os.fsync(file)
            yield temporary

    def _rename_if_absent(self, temporary: Path, path: Path, key: str) -> None:
        """For file systems without hard links (FAT, some network mounts): safe among writers that lock."""
        with self._locked():
            if path.exists():
                raise Conflict(f"{key} exists already", self.url)
            os.replace(temporary, path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The store's one lock, held for a rename at a time; the kernel drops it when its holder dies."""
        lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            until = time.monotonic() + _LOCK_PATIENCE_S
            while not _take(lock):
                if time.monotonic() > until:
                    raise StoreError(f"another process has held {_LOCK} for {_LOCK_PATIENCE_S:.0f} s", self.url)
                time.sleep(0.002)
            yield
        finally:
            os.close(lock)

    def _prune(self, folder: Path) -> None:
        """Empty folders would pile up as runs come and go; a key is a file, so nothing is lost with them."""
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = folder.parent


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _listed(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() or not speakable(entry.name) or entry.name.startswith(RESERVED):
        return False
    return entry.is_dir() or entry.is_file()


def _order(entry: os.DirEntry[str]) -> str:
    """A folder sorts as its keys do: `a-b` comes before `a/c`, because `-` comes before the slash."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
