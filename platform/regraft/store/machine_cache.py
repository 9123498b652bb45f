"""The folder of what this machine keeps for itself: copies of files in S3, and facts about files."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path


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

    def remove(self) -> None:
        """Delete it; processes that have its files open keep them."""
        shutil.rmtree(self.path, ignore_errors=True)


def cached_folders() -> list[CachedFolder]:
    """Return the folders of the machine's cache, by name."""
    found = []
    for kind in sorted(path for path in cache_folder("").glob("*") if path.is_dir() and not path.is_symlink()):
        folders = [path for path in kind.iterdir() if path.is_dir() and not path.is_symlink()]
        for folder in sorted(folders) if folders else [kind]:
            stats = [path.lstat() for path in (folder, *folder.rglob("*"))]
            used = max(max(stat.st_mtime, stat.st_atime, stat.st_ctime) for stat in stats)
            found.append(CachedFolder(folder, sum(stat.st_size for stat in stats), time.time() - used))
    return found
