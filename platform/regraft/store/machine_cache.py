"""The folder of what this machine keeps for itself: copies of files in S3, and facts about files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder of one kind of copies: `~/.cache/regraft/<kind>`, or below REGRAFT_CACHE."""
    return Path(os.environ.get("REGRAFT_CACHE") or "~/.cache/regraft").expanduser() / kind
