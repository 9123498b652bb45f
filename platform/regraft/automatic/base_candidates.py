"""Bases that are there: those that are named, those of the user's settings, of packages, and of the hub's copies here.

Nothing is downloaded to find them, and no package is imported.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from regraft.spec.user_settings import user_settings

_MODULE = re.compile(r"[A-Za-z_]\w*")
MOST = 40
"""Bases that are looked at."""


@dataclass(frozen=True, slots=True)
class NamedBase:
    """A base that may be chosen."""

    reference: str
    """As a spec writes it."""
    found: str
    """Where it was found, as a phrase."""


def base_candidates(written: tuple[str, ...] | None) -> list[NamedBase]:
    """Return the bases to choose among, the preferred ones first; those that are `written`, and no other, if any."""
    if written is not None:
        return [NamedBase(reference, "named by --bases") for reference in written]
    settings = [NamedBase(name, "in the user's settings") for name in user_settings().bases]
    packages = (NamedBase(name, "in an installed package") for name in bases_in_packages(map(Path, sys.path)))
    mirror = os.environ.get("REGRAFT_HUB_MIRROR")
    mirrored = (NamedBase(name, "in the hub's mirror (REGRAFT_HUB_MIRROR)") for name in bases_in_mirror(mirror))
    cached = (NamedBase(name, "in the hub's cache") for name in ([] if mirror else bases_in_cache(Path(HF_HUB_CACHE))))
    found: dict[str, NamedBase] = {}
    for one in (*settings, *packages, *mirrored, *cached):
        found.setdefault(one.reference, one)
    return list(found.values())[:MOST]


def bases_in_packages(places: Iterable[Path]) -> Iterator[str]:
    """Yield the bases in folders of installed packages, up to one folder deep: `package:<module>/<folder>`."""
    for place in places:
        if place.name not in ("site-packages", "dist-packages") or not place.is_dir():
            continue
        folders = (entry for entry in sorted(place.iterdir()) if _MODULE.fullmatch(entry.name) and entry.is_dir())
        for package in folders:
            for folder in (package, *_folders(package)):
                if is_base(folder):
                    yield f"package:{folder.relative_to(place).as_posix()}"


def bases_in_mirror(mirror: str | None) -> Iterator[str]:
    """Yield the bases of a mirror of the hub, which is laid out <org>/<name>/."""
    root = Path(mirror).expanduser() if mirror else None
    for organisation in _folders(root) if root else ():
        for folder in _folders(organisation):
            if is_base(folder):
                yield f"{organisation.name}/{folder.name}"


def bases_in_cache(cache: Path) -> Iterator[str]:
    """Yield the hub ids of bases that were downloaded before."""
    for folder in _folders(cache):
        kind, _, name = folder.name.partition("--")
        if kind == "models" and any(map(is_base, _folders(folder / "snapshots"))):
            yield name.replace("--", "/")


def is_base(folder: Path) -> bool:
    """Return whether a folder holds a configuration and weights."""
    return (folder / "config.json").is_file() and any(True for _ in folder.glob("*.safetensors"))


def _folders(folder: Path) -> list[Path]:
    """Return the folders inside a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
