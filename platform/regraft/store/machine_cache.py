"""The folder of what this machine keeps for itself: copies of files in S3, and facts about files."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of copies: `~/.cache/regraft/<kind>`, or below REGRAFT_CACHE."""
    return Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser() / kind


@dataclass(frozen=True, slots=True)
class CachedFolder:
    """One folder of the machine's cache: a base, the rows of a run, a version, or what is known about files."""

    path: Path
    bytes: int
    idle_s: float
    """Seconds since any of its files was last written or read, as far as the file system notes it."""

    def remove(self) -> bool:
        """Delete it; return False where it stays, since a process holds it (by a shared lock on the folder)."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if _is_held(file):
                return False
            shutil.rmtree(self.path)
        except OSError as error:
            log.info("%s is not removed, or not all of it: %s", self.path, error)
            return False
        finally:
            os.close(file)
        return True


def _is_held(folder: int) -> bool:
    """Return whether another process holds an open folder; else lock it for this one."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        log.info("this file system has no locks: %s", error)
    return False


def cached_folders() -> list[CachedFolder]:
    """Return the folders of the machine's cache, by name. Those that another process removes meanwhile are left out."""
    found = []
    for kind in sorted(path for path in cache_folder("").glob("*") if path.is_dir() and not path.is_symlink()):
        folders = [path for path in kind.iterdir() if path.is_dir() and not path.is_symlink()]
        for folder in sorted(folders) if folders else [kind]:
            stats = list(_stats(folder))
            used = max((_last_use(one) for one in stats), default=0.0)
            if stats:
                found.append(CachedFolder(folder, sum(one.st_size for one in stats), time.time() - used))
    return found


def _stats(folder: Path) -> Iterator[os.stat_result]:
    for path in (folder, *folder.rglob("*")):
        try:
            yield path.lstat()
        except FileNotFoundError:
            continue


def _last_use(state: os.stat_result) -> float:
    """Return when a file was last written or read; of a folder when it was written: listing it here reads it."""
    written = max(state.st_mtime, state.st_ctime)
    return written if stat.S_ISDIR(state.st_mode) else max(written, state.st_atime)
