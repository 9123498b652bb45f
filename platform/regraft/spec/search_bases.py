"""The bases of a search: `search.space.base` in full, with absolute paths and pinned models, and short names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from regraft.spec.search import SearchSpec

BASE = "base"
"""The field of a space that names bases."""


def bases_of(search: SearchSpec | None) -> tuple[str, ...]:
    """Return the bases that a search varies; empty where all trials have the base of the spec."""
    draw = search.space.get(BASE) if search is not None else None
    return tuple(value for value in (draw.values if draw is not None else None) or () if isinstance(value, str))


def with_bases(search: SearchSpec | None, change: Callable[[str], str]) -> SearchSpec | None:
    """Return a search whose bases are replaced by what `change` makes of each."""
    if search is None or not bases_of(search):
        return search
    draw = search.space[BASE]
    values = tuple(change(value) if isinstance(value, str) else value for value in draw.values or ())
    changed = draw.model_copy(update={"choice" if draw.choice is not None else "grid": values})
    return search.model_copy(update={"space": {**search.space, BASE: changed}})


def base_of_trial(overrides: Mapping[str, Any]) -> str:
    """Return the base that a trial's point names; empty where all trials have the base of the spec."""
    return str(overrides.get(BASE, ""))


def short_base(reference: str) -> str:
    """Return the name of a base as tables show it: the last part of a path or URL, anything else as it is."""
    return _end(reference, 1) if _is_place(reference) else reference


def short_bases(references: Sequence[str]) -> dict[str, str]:
    """Return a short name of each base: of paths and URLs as much of their end as tells them apart."""
    return {reference: _name_among(reference, references) for reference in references}


def _name_among(reference: str, references: Sequence[str]) -> str:
    if not _is_place(reference):
        return reference
    others = [other for other in references if other != reference]
    for count in range(1, reference.count("/") + 1):
        if _end(reference, count) not in (_end(other, count) for other in others):
            return _end(reference, count)
    return reference


def _is_place(reference: str) -> bool:
    return reference.startswith(("/", "~", ".")) or "://" in reference


def _end(reference: str, count: int) -> str:
    return "/".join(reference.rstrip("/").split("/")[-count:])
