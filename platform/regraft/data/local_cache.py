"""The files of a committed prefix as files of this machine, verified, to be memory-mapped."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from regraft.errors import Damaged, NotFound
from regraft.store.atomic_files import writing_here
from regraft.store.manifest import FileEntry, Manifest, fetch_verified, load
from regraft.store.objects import ObjectStore


def mapped(store: ObjectStore, prefix: str, cache: Path) -> tuple[Manifest, dict[str, Path]]:
    """The manifest at `prefix` and its files by name; NotFound, or Damaged by name.

    A folder store's own files are given. From S3 they are downloaded once per machine into the folder `cache`; of
    several processes one downloads and the others wait.
    """
    manifest = load(store, prefix)
    paths = {}
    for entry in manifest.files:
        if path := _in_place(store, prefix, entry):
            paths[entry.name] = path
    if not paths:
        with one_at_a_time(cache):
            fetch_verified(store, prefix, cache)
        paths = {entry.name: cache / entry.name for entry in manifest.files}
    return manifest, paths


def cache_folder(kind: str) -> Path:
    """Where what was downloaded from S3 is kept on this machine: `~/.cache/regraft/<kind>`, below REGRAFT_CACHE if
    set."""
    return Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser() / kind


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_place(store: ObjectStore, prefix: str, entry: FileEntry) -> Path | None:
    """The store's own file, verified, or None where it has none on this machine."""
    where = f"{store.url}/{prefix}/{entry.name}"
    try:
        path = store.local(f"{prefix}/{entry.name}")
    except NotFound:
        raise Damaged(f"{entry.name} is missing", where) from None
    if path is None:
        return None
    stat = path.stat()
    if stat.st_size != entry.size or _known_sha256(path, stat.st_ino, stat.st_mtime_ns) != entry.sha256:
        raise Damaged(f"{entry.name} does not have the bytes that were written", where)
    return path


@lru_cache(maxsize=256)
def _known_sha256(path: Path, inode: int, modified_ns: int) -> str:
    """Hashed once in a process, as long as the file stays the same: the trials of a search open it again and again."""
    return sha256(path)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """One process of this machine at a time; the kernel frees the lock of one that dies."""
    with writing_here(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
