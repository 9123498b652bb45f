"""Atomic writes of local files, and the translation of the system's errors into StoreError."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from regraft.errors import NotFound, PermissionDenied, StoreError, StoreGone
from regraft.store.objects import RESERVED

TEMPORARY = RESERVED + "tmp-"
"""Prefix of the names of temporary files."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
_ANOTHER_STORE = "name another store"
_MOUNT_AGAIN = "mount it again, then give the same command again"
_CANNOT_SYNC = {errno.EINVAL, errno.EBADF}


@contextmanager
def temporary_file(path: Path, root: Path | None = None) -> Iterator[tuple[int, Path]]:
    """Open a new temporary file beside `path`, in missing folders too; yield descriptor and name, then remove it.

    The folder `root` itself is not made: it may have gone away.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{uuid4().hex}"
    file = _open_new(temporary, root)
    try:
        yield file, temporary
    finally:
        os.close(file)
        unlink(temporary)


def is_being_written(path: Path) -> bool:
    """Return whether the process of this machine that a temporary file is named after has it open."""
    opened = Path("/proc", path.name.removeprefix(TEMPORARY).partition("-")[0], "fd")
    with suppress(OSError):  # that process has ended, or belongs to another user or machine
        return any(_is_open_as(file, path) for file in opened.iterdir())
    return False


def _is_open_as(file: Path, path: Path) -> bool:
    try:
        return file.samefile(path)
    except OSError:
        return False


def write_all(file: int, data: memoryview) -> None:
    """Write all bytes of `data`; one system call may write only a part."""
    while len(data):
        data = data[os.write(file, data) :]


def unlink(path: Path) -> None:
    """Remove a file if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, without which a rename or link in it does not survive a power cut."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # emptied and removed by another process
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(file)


@contextmanager
def reading(key: str, where: str) -> Iterator[None]:
    """Translate OSError of a read: NotFound if the file does not exist, else StoreError or PermissionDenied."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"{key} is not in the store", where) from error
    except OSError as error:
        raise _store_error(error, where) from error


@contextmanager
def writing(where: str, instead: str = _ANOTHER_STORE) -> Iterator[None]:
    """Translate OSError of a write into StoreError or PermissionDenied; `instead` is the alternative that they name."""
    try:
        yield
    except OSError as error:
        raise _store_error(error, where, instead) from error


def writing_locally(path: Path) -> AbstractContextManager[None]:
    """Translate OSError as `writing` does, for files outside the store: temporary ones and those of the cache."""
    return writing(str(path), "name another folder by TMPDIR (temporary files) or REGRAFT_CACHE (the cache)")


def _store_error(error: OSError, where: str, instead: str = _ANOTHER_STORE) -> StoreError:
    name = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return StoreError(f"the disk or quota is full: free space (in a store: regraft gc) or {instead}", where)
    if error.errno in _FORBIDDEN:
        return PermissionDenied(f"no permission{name}: make the folder writable for this user or {instead}", where)
    if error.errno in _IN_THE_WAY:
        return StoreError(f"there is a file where a folder is needed, or the reverse{name}: {instead}", where)
    return StoreError(f"{error.strerror or error}{name}", where)


def _open_new(path: Path, root: Path | None) -> int:
    for _ in range(16):
        with suppress(FileNotFoundError):  # another process removed the folder while it was still empty
            _make_folder(path.parent, root)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    raise StoreError("the folder cannot be created", str(path.parent))


def _make_folder(folder: Path, root: Path | None) -> None:
    missing = []
    while not folder.is_dir():
        if folder == root:
            raise StoreGone(f"the store is not there any more: {_MOUNT_AGAIN}", str(root))
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            os.mkdir(new)
        except FileExistsError:
            if not new.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(new)) from None
        sync_folder(new.parent)
