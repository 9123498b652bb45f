"""Private copies of bases in this machine's cache: a base in use does not change when its files do.

A copy is kept under the hash of its content, and hashed again whenever it is used. Where the file system can, it shares
the blocks of the original. Weights in the hub's cache that are named by their own hash are linked, not copied.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from uuid import uuid4

from regraft.bases import safety
from regraft.errors import BaseError, StoreError
from regraft.store.machine_cache import cache_folder
from regraft.units import bytes_text

log = logging.getLogger(__name__)

COPIES = "base-copies"
FETCHED_COPIES = "bases"
"""Folders of bases from S3: written once and by nothing else, so that they are used as they are."""
SETTLED_S = 2.0
"""Age of a file's times from which equal times mean equal content; file systems tick more finely than that."""
_KNOWN = ".known"
_TRIES, _PAUSE_S = 5, 0.1
_READ = (".safetensors", ".json", ".txt", ".model", ".spm", ".jinja", ".tiktoken", ".vocab", ".bpe", ".yaml", ".yml")
_BELOW = ("1_Pooling/config.json", "additional_chat_templates/*.jinja")
_FICLONE = 0x40049409
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_NO_CLONE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Hold:
    """Keeps a copy from being collected while this object lives."""

    def __init__(self, folder: Path) -> None:
        """Raise OSError if the folder is gone or being removed."""
        self._file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            self._file = -1
            raise
        except OSError as error:
            log.info("%s cannot be locked, `regraft gc` may remove it while it is used: %s", folder, error)
        if not os.path.samestat(os.fstat(self._file), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, "replaced", str(folder))
        with suppress(OSError):
            os.utime(folder)  # the time of last use, by which copies are collected

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # another process locates the base itself


@dataclass(frozen=True)
class PrivateCopy:
    """A base's files as they are loaded."""

    path: Path
    contents: Mapping[str, str]
    """SHA-256 of each file in `path`, by its name relative to it."""
    state: str
    """State of the original's files when they were copied."""
    hold: Hold | None


def private_copy(folder: Path, reference: str) -> PrivateCopy:
    """Return a verified copy of a base's folder, made now unless there is one.

    Raises BaseError if the files are being written meanwhile, StoreError if no place has room for a copy.
    """
    if folder.parent == cache_folder(FETCHED_COPIES):
        return PrivateCopy(folder, _contents(folder), source_state(folder)[0], Hold(folder))
    for _ in range(_TRIES):
        try:
            state, changed = source_state(folder)
            if found := _remembered(folder, state):
                return found
            made = _copied(folder, reference, state)
            if source_state(folder)[0] == state:
                if time.time() - changed > SETTLED_S:
                    _remember(folder, state, made.path)
                return made
        except FileNotFoundError as error:
            log.info("a file of %s went away while it was copied: %s", reference, error)
        time.sleep(_PAUSE_S)
    raise BaseError(
        f"the files in {folder} are being written while they are read: wait until that has ended, and run the command "
        "again",
        where=reference,
    )


def source_state(folder: Path) -> tuple[str, float]:
    """Return a text that changes when a file of the base does, and the latest of the files' times. OSError."""
    found = [(name, (folder / name).stat()) for name in base_files(folder)]
    facts = [(name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found]
    return hashlib.sha256(repr(facts).encode()).hexdigest(), max(
        (max(s.st_mtime, s.st_ctime) for _, s in found), default=0.0
    )


def base_files(folder: Path) -> list[str]:
    """Return the names, relative to the folder, of the files that loading a base may read."""
    found = [path for path in folder.iterdir() if path.suffix in _READ and path.is_file()]
    found += [path for pattern in _BELOW for path in folder.glob(pattern) if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def forget_removed() -> None:
    """Forget which files the copies had that are no longer in this machine's cache."""
    known = cache_folder(COPIES) / _KNOWN
    for entry in known.iterdir() if known.is_dir() else ():
        with suppress(OSError):
            if not (cache_folder(COPIES) / entry.read_text()).is_dir():
                entry.unlink()


def _remembered(folder: Path, state: str) -> PrivateCopy | None:
    """Return the verified copy of these files in this state, or None."""
    try:
        path = cache_folder(COPIES) / (cache_folder(COPIES) / _KNOWN / _known_name(folder, state)).read_text()
    except OSError:
        return None
    return _verified(path, state)


def _remember(folder: Path, state: str, path: Path) -> None:
    if path.parent != cache_folder(COPIES):
        return
    entry = path.parent / _KNOWN / _known_name(folder, state)
    with suppress(OSError):  # the next command copies again
        entry.parent.mkdir(exist_ok=True)
        incoming = entry.with_suffix(f".{uuid4().hex}")
        incoming.write_text(path.name)
        incoming.rename(entry)


def _known_name(folder: Path, state: str) -> str:
    return hashlib.sha256(f"{folder}\0{state}".encode()).hexdigest()[:32]


def _verified(path: Path, state: str) -> PrivateCopy | None:
    """Return a kept copy if its bytes have the hash in its name."""
    try:
        hold = Hold(path)
        contents = _contents(path)
    except OSError:
        return None
    return PrivateCopy(path, contents, state, hold) if _key(contents) == path.name else None


def _copied(folder: Path, reference: str, state: str) -> PrivateCopy:
    """Copy a base into the cache, or where that cannot be written into a folder that this process removes."""
    problem: OSError | None = None
    for choose in (partial(cache_folder, COPIES), partial(_temporary, os.getpid())):
        place = choose()
        try:
            place.mkdir(parents=True, exist_ok=True)
            return _copied_into(place, folder, reference, state)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            log.info("no private copy of %s in %s: %s", reference, place, error)
            problem = error
    size = bytes_text(sum((folder / name).stat().st_size for name in base_files(folder)))
    raise StoreError(
        f"a private copy of the base needs {size}, and there is no place for it ({problem}): free space, or set "
        "REGRAFT_CACHE to a folder on another disk",
        where=reference,
    )


def _copied_into(place: Path, folder: Path, reference: str, state: str) -> PrivateCopy:
    incoming = Path(tempfile.mkdtemp(prefix=".", dir=place))
    try:
        names = base_files(folder)
        heavy = {name for name in names if name.endswith(".safetensors")}
        for name in names:
            if name not in heavy:
                _place(folder / name, incoming / name)
        safety.check_harmless(incoming, reference)  # the bytes that are loaded, whatever was checked before
        for name in sorted(heavy):
            _place(folder / name, incoming / name)
        contents = _contents(incoming)
        final = place / _key(contents)
        if final.is_dir() and (found := _verified(final, state)):
            return found
        with suppress(FileNotFoundError):
            final.rename(place / f".{uuid4().hex}")  # damaged: `regraft gc` removes it
        incoming.rename(final)
        size = sum(path.lstat().st_size for path in final.rglob("*") if path.is_file())
        log.info("a private copy of %s (%s) is kept in %s", reference, bytes_text(size), final)
        return PrivateCopy(final, contents, state, Hold(final))
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _place(source: Path, target: Path) -> None:
    """Put a file's content at `target`: a link to a blob that is named by its own hash, else a copy."""
    target.parent.mkdir(exist_ok=True)
    blob = source.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and file_hash(blob) == blob.name:
        target.symlink_to(blob)
        return
    with source.open("rb") as read, target.open("xb") as write:
        if not _cloned(read.fileno(), write.fileno()):
            shutil.copyfileobj(read, write, 2**22)


def _cloned(source: int, target: int) -> bool:
    """Let the target share the source's blocks; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _contents(folder: Path) -> dict[str, str]:
    return {name: file_hash(folder / name) for name in base_files(folder)}


def _key(contents: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:32]


@lru_cache(maxsize=1)
def _temporary(process: int) -> Path:
    """Return a folder of this process, removed when it ends."""
    made = Path(tempfile.mkdtemp(prefix="regraft-bases-"))

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(remove)
    return made
