"""How does a local file appear whole or not at all, and what does a disk's refusal mean?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from regraft.errors import NotFound, PermissionDenied, StoreError
from regraft.store.objects import RESERVED

TEMPORARY = RESERVED + "tmp-"
"""How names of temporary files begin."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY}
_ANOTHER_STORE = "name another store"
_CANNOT_SYNC = {errno.EINVAL, errno.EBADF}


@contextmanager
def fresh_file(path: Path) -> Iterator[tuple[int, Path]]:
    """A new temporary file beside `path` (whose folders are made), as descriptor and name; removed if still there."""
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{uuid4().hex}"
    file = _open_new(temporary)
    try:
        yield file, temporary
    finally:
        os.close(file)
        unlink(temporary)


def write_all(file: int, data: memoryview) -> None:
    """Write every byte of `data`: one call of the system may take only a part."""
    while len(data):
        data = data[os.write(file, data) :]


def unlink(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync_folder(folder: Path) -> None:
    """A rename or link survives a power cut only once its folder is on disk."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # emptied and pruned meanwhile
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(file)


@contextmanager
def reading(key: str, where: str) -> Iterator[None]:
    """Turns the system's errors into ours; a file that is not there is NotFound."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"{key} is not in the store", where) from error
    except OSError as error:
        raise _told(error, where) from error


@contextmanager
def writing(where: str, instead: str = _ANOTHER_STORE) -> Iterator[None]:
    """Turns the system's errors into ours; `instead` says what else could be named."""
    try:
        yield
    except OSError as error:
        raise _told(error, where, instead) from error


def writing_here(path: Path) -> AbstractContextManager[None]:
    """`writing` for files beside the store: temporary ones and those of the cache."""
    return writing(str(path), "name another folder by TMPDIR (temporary files) or REGRAFT_CACHE (the cache)")


def _told(error: OSError, where: str, instead: str = _ANOTHER_STORE) -> StoreError:
    name = f" ({error.filename})" if error.filename else ""
    if error.errno in _FULL:
        return StoreError(f"the disk or quota is full: free space (in a store: regraft gc) or {instead}", where)
    if error.errno in _FORBIDDEN:
        return PermissionDenied(f"no permission{name}: make the folder writable for this user or {instead}", where)
    if error.errno in _IN_THE_WAY:
        return StoreError(f"a file stands where a folder is needed, or the reverse{name}: {instead}", where)
    return StoreError(f"{error.strerror or error}{name}", where)


def _open_new(path: Path) -> int:
    for _ in range(16):
        with suppress(FileNotFoundError):  # a delete elsewhere pruned the folder while it was still empty
            _make_folder(path.parent)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    raise StoreError("the folder cannot be made", str(path.parent))


def _make_folder(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            os.mkdir(new)
        except FileExistsError:
            if not new.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", str(new)) from None
        sync_folder(new.parent)
