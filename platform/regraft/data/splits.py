"""Splits of a data set by their names: `train`, `val` (or `valid`, `validation`) and `test`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from regraft.errors import DataError

ALIASES = {"valid": "val", "validation": "val"}
SPLIT_NAMES = ("train", "val", "test", *ALIASES)
_YEAR = re.compile(r"(?P<name>[a-z]+)\d{4}")
"""COCO's names of splits: `train2017`."""

T = TypeVar("T")


def select_split(splits: Mapping[str, T], part: str | None, path: Path) -> T:
    """Return the split `part` of a data set; null is the only one. Raises DataError."""
    if part is None and len(splits) == 1:
        return next(iter(splits.values()))
    known = {plain_name(name): name for name in splits}
    chosen = part if part in splits else known.get(plain_name(part)) if part else None
    if chosen is not None:
        return splits[chosen]
    shown = ", ".join(splits) or "none"
    if part is None:
        raise DataError(f"holds the splits {shown}: write one of them, as in {path}#{next(iter(splits))}", str(path))
    near = get_close_matches(part, [*splits, *known], n=1)
    hint = f"; did you mean {known.get(near[0], near[0])!r}?" if near else ""
    raise DataError(f"has no split {part!r}{hint}: splits are {shown}", str(path))


def plain_name(name: str) -> str:
    """Return the name of a split as the others write it: `val` for `valid` and for `Val2017`."""
    found = _YEAR.fullmatch(name.lower())
    name = found["name"] if found else name.lower()
    return ALIASES.get(name, name)
