"""The folder of what this machine keeps for itself: copies of files in S3, and facts about files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of copies: `~/.cache/regraft/<kind>`, or below REGRAFT_CACHE."""
    return _folder(kind, os.environ.get("REGRAFT_CACHE", ""), os.environ.get("HOME", ""))


@lru_cache(maxsize=16)
def _folder(kind: str, written: str, home: str) -> Path:
    """Return the folder; it is asked for once a row. `home` is where `~` leads, by which results differ."""
    return Path(written or "~/.cache/regraft").expanduser() / kind
