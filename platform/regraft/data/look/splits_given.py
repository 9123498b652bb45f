"""The sides of a split that data have already: folders, parts of a file, or lists that a layout names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from regraft.contracts import Source
from regraft.data.folders import subfolders
from regraft.data.splits import SPLIT_NAMES, plain_name

_SIDES = {"train": "train", "val": "eval", "test": "test"}
"""The side of a split that each plain name means."""


def split_folders(written: str) -> dict[str, str]:
    """Return the folders of a split by their sides, where a folder holds `train` and, perhaps, others; else nothing."""
    folder = Path(written).expanduser()
    if "://" in written or not folder.is_dir():
        return {}
    inside = subfolders(folder)
    named = {_SIDES[plain_name(part.name)]: str(part) for part in inside if plain_name(part.name) in SPLIT_NAMES}
    return named if "train" in named and len(named) == len(inside) else {}


def split_parts(written: str, source: Source, path: Path) -> dict[str, str]:
    """Return the parts of a file or folder by their sides, where its source knows splits of it; else nothing."""
    if "#" in written:
        return {}
    found: Mapping[str, str] = {
        _SIDES[plain_name(part)]: f"{written}#{part}"
        for part in source.splits_in(path)
        if plain_name(part) in SPLIT_NAMES
    }
    return dict(found) if "train" in found else {}
