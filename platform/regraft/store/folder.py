"""The store in a folder: temporary files, fsync, rename, hard links and one lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from regraft.errors import Conflict, NotFound, RequestError, StoreError, StoreGone
from regraft.store.atomic_files import (
    TEMPORARY,
    is_being_written,
    reading,
    sync_folder,
    temporary_file,
    unlink,
    write_all,
    writing,
    writing_locally,
)
from regraft.store.mark import FolderMark
from regraft.store.objects import MARK, PROBE, RESERVED, Body, ObjectStore, Stat, absolute, checked, chunks, valid_part
from regraft.store.size_bound import refuse_large

_LOCK = RESERVED + "lock"
_PIECE = 4 << 20
_LOCK_PATIENCE_S = 30.0
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderStore(ObjectStore):
    """A store in a folder, created at the first write; on one machine, or on a network mount shared by all nodes.

    A key is a file below the root. Symbolic links below the root are neither followed nor listed.
    """

    def __init__(self, folder: str) -> None:
        self.url = absolute(folder)
        self.root = Path(os.path.realpath(self.url))
        self._mark = FolderMark(self.root, self.url)

    def begin(self) -> None:
        self._mark.begin()

    def create(self) -> None:
        self._mark.before_write()

    def expect(self) -> None:
        self._mark.required = True

    def hold(self) -> None:
        self._mark.see()

    def verify(self) -> None:
        self._mark.verify()

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with self._reading(key):
            return path.read_bytes()

    def read(self, key: str, most: int | None = None) -> tuple[bytes, str]:
        path = self._path(key)
        with self._reading(key), path.open("rb") as file:
            refuse_large(os.fstat(file.fileno()).st_size, most, f"{self.url}/{key}")
            data = file.read()
        return data, _tag(data)

    def tag(self, key: str) -> str:
        path = self._path(key)
        with self._reading(key):
            return _tag_of_file(path)

    def read_start(self, key: str, size: int) -> tuple[bytes, int]:
        path = self._path(key)
        with reading(key, self.url), path.open("rb") as file:
            return file.read(size), os.fstat(file.fileno()).st_size

    def fetch(self, key: str, path: Path) -> None:
        source = self._path(key)
        with self._reading(key):
            file = source.open("rb")
        with file, writing_locally(path), temporary_file(path) as (target, temporary):
            while piece := file.read(_PIECE):
                write_all(target, memoryview(piece))
            os.replace(temporary, path)

    def put(self, key: str, body: Body) -> None:
        path = self._path(key)
        self._mark.before_write()
        with self._writing(), self._written(path, body) as temporary:
            with self._locked():
                os.replace(temporary, path)
            sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> None:
        path = self._path(key)
        self._mark.before_write()
        with self._writing(), self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError as error:
                # Over NFS a repeated request can fail because its first attempt succeeded.
                if not os.path.samefile(temporary, path):
                    raise Conflict(f"{key} exists already", self.url) from error
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                self._rename_if_absent(temporary, path, key)
            sync_folder(path.parent)

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        path = self._path(key)
        self._mark.verify()
        if not path.is_file():
            raise Conflict(f"{key} no longer exists", self.url)
        self._mark.before_write()
        with self._writing(), self._written(path, data) as temporary:
            with self._locked():
                if not path.is_file() or _tag_of_file(path) != tag:
                    raise Conflict(f"{key} was changed by another process", self.url)
                os.replace(temporary, path)
            sync_folder(path.parent)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        folder, slash, start = prefix.rpartition("/")
        if slash:
            self._path(folder)
        self._mark.see()
        self._mark.verify()
        yield from self._walk(folder + slash, start)
        self._mark.verify()

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            self._mark.verify()
            if not path.is_file():
                continue
            with self._writing():
                with self._locked():
                    unlink(path)
                sync_folder(path.parent)
                self._prune(path.parent)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with self._reading(key):
            found = path.is_file()
        if not found:
            self._mark.verify()
        return found

    def local(self, key: str) -> Path | None:
        if not self.exists(key):
            raise NotFound(f"{key} is not in the store", self.url)
        return self._path(key)

    def check(self) -> None:
        self._mark.verify()
        new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        data = uuid4().hex.encode()
        path = self.root / (PROBE + uuid4().hex)
        try:
            with self._writing():
                with self._written(path, data) as temporary:
                    os.replace(temporary, path)
                stored = path.read_bytes()
                unlink(path)
            if stored != data:
                raise StoreError("the folder does not return the bytes that were written to it", self.url)
        finally:
            for folder in new:
                with suppress(OSError):
                    folder.rmdir()

    def free_bytes(self) -> int:
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(existing).free

    def now(self) -> float:
        self._mark.verify()
        # Of the folder that will hold the store where there is none yet: asking for the time must not create it.
        place = next(folder for folder in (self.root, *self.root.parents) if folder.is_dir())
        with self._writing(), TemporaryFile(dir=place) as file:
            return os.fstat(file.fileno()).st_mtime

    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        self._mark.see()
        before = self.now() - older_than_s
        deleted = []
        with self._writing():
            for folder, _, names in os.walk(self.root):
                for name in names:
                    path = Path(folder, name)
                    if name.startswith((TEMPORARY, PROBE)) and _modified(path) < before and not is_being_written(path):
                        unlink(path)
                        deleted.append(str(path.relative_to(self.root)))
        return tuple(sorted(deleted))

    def _path(self, key: str) -> Path:
        path = self.root.joinpath(checked(key))
        if os.path.realpath(path) != str(path):
            raise RequestError(f"key {key!r} leads through a symbolic link, which a store does not follow", self.url)
        return path

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """Translate errors of a read: what is not there is gone where the whole store is."""
        self._mark.see()
        try:
            with reading(key, self.url):
                yield
        except NotFound:
            self._mark.verify()
            raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Translate errors of a write: where the store went away meanwhile, that is the error."""
        try:
            with writing(self.url):
                yield
        except StoreError:
            self._mark.verify()
            raise

    def _walk(self, folder: str, start: str) -> Iterator[Stat]:
        """List the objects below `folder`, which is "" or ends with a slash, whose names begin with `start`."""
        try:
            with reading(folder, self.url), os.scandir(self.root / folder) as found:
                entries = sorted(
                    (e for e in found if e.name.startswith(start) and _is_listed(e) and folder + e.name != MARK),
                    key=_sort_key,
                )
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
        """Write `body` to a temporary file beside `path` and flush it; it is removed at the end unless renamed."""
        with self._temporary(path) as (file, temporary):
            for piece in chunks(body, _PIECE):
                write_all(file, piece)
            os.fsync(file)
            yield temporary

    @contextmanager
    def _temporary(self, path: Path) -> Iterator[tuple[int, Path]]:
        """Open a temporary file in the store that was seen: it may go away between a look and a write."""
        root = self.root if self._mark.see() else None
        with temporary_file(path, root) as opened:
            try:
                self._mark.verify()
            except StoreGone:
                unlink(opened[1])
                self._prune(path.parent)
                raise
            yield opened

    def _rename_if_absent(self, temporary: Path, path: Path, key: str) -> None:
        """Rename on file systems without hard links (FAT, some network mounts); safe among writers that lock."""
        with self._locked():
            if path.exists():
                raise Conflict(f"{key} exists already", self.url)
            os.replace(temporary, path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's only lock, for a single rename; the kernel releases it when its holder dies."""
        lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._verify_lock()
            until = time.monotonic() + _LOCK_PATIENCE_S
            while not _try_lock(lock):
                if time.monotonic() > until:
                    raise StoreError(f"another process has held {_LOCK} for {_LOCK_PATIENCE_S:.0f} s", self.url)
                time.sleep(0.002)
            yield
        finally:
            os.close(lock)

    def _verify_lock(self) -> None:
        """Raise StoreGone where the store went away, without the lock that was made in its place."""
        try:
            self._mark.verify()
        except StoreGone:
            if not (self.root / MARK).exists():
                unlink(self.root / _LOCK)
            raise

    def _prune(self, folder: Path) -> None:
        """Remove empty folders, which would accumulate as runs are deleted; a folder without files holds no key."""
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = folder.parent


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tag_of_file(path: Path) -> str:
    """Return the tag of a file's bytes, without holding all of them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _modified(path: Path) -> float:
    """Return when a file was written, never where it is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _is_listed(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() or not valid_part(entry.name) or entry.name.startswith(RESERVED):
        return False
    return entry.is_dir() or entry.is_file()


def _sort_key(entry: os.DirEntry[str]) -> str:
    """Return a name that sorts a folder as its keys: `a-b` before `a/c`, because `-` precedes the slash."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
