"""Local, verified files of a committed prefix, to be memory-mapped."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from regraft.errors import Damaged, NotFound
from regraft.store.atomic_files import writing_locally
from regraft.store.manifest import FileEntry, Manifest, fetch_verified, load
from regraft.store.objects import ObjectStore


def local_files(store: ObjectStore, prefix: str, cache: Path) -> tuple[Manifest, dict[str, Path]]:
    """Return the manifest at `prefix` and local paths of its files by name.

    The files of a folder store are returned themselves. Files in S3 are downloaded once per machine into the folder
    `cache`; of several processes, one downloads and the others wait. Raises NotFound, and Damaged with the file's name.
    """
    manifest = load(store, prefix)
    paths = {}
    for entry in manifest.files:
        if path := _local_file(store, prefix, entry):
            paths[entry.name] = path
    if not paths:
        with exclusive(cache):
            fetch_verified(store, prefix, cache)
        paths = {entry.name: cache / entry.name for entry in manifest.files}
    return manifest, paths


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local_file(store: ObjectStore, prefix: str, entry: FileEntry) -> Path | None:
    """Return the store's own file, verified, or None when the store is not on this machine."""
    where = f"{store.url}/{prefix}/{entry.name}"
    try:
        path = store.local(f"{prefix}/{entry.name}")
    except NotFound:
        raise Damaged(f"{entry.name} is missing", where) from None
    if path is None:
        return None
    stat = path.stat()
    if stat.st_size != entry.size or _cached_sha256(path, stat.st_ino, stat.st_mtime_ns) != entry.sha256:
        raise Damaged(f"{entry.name} does not have the bytes that were written", where)
    return path


@lru_cache(maxsize=256)
def _cached_sha256(path: Path, inode: int, modified_ns: int) -> str:
    """Return a file's hash, computed once in a process while the file is unchanged: trials open it many times."""
    return file_sha256(path)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder among this machine's processes; the kernel frees it if the process dies."""
    with writing_locally(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
