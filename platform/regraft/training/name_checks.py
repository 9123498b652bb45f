"""Warnings before a run gives a known name to another kind of model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from regraft.bases.locate import Base
from regraft.errors import Damaged, NotFound
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version

_SHOWN = 5
"""Labels that a warning lists."""


@dataclass(frozen=True, slots=True)
class NameUse:
    """What callers of a model rely on under its name."""

    task: str
    family: str
    """The base's family, such as `bert`; empty where it is not known."""
    labels: tuple[str, ...]


def base_family(base: Base) -> str:
    """Return the base's family as its configuration names it, such as `bert`; empty where it names none."""
    try:
        config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type") or "") if isinstance(config, dict) else ""


def warn_of_changes(store: ObjectStore, name: str, planned: NameUse) -> tuple[str, ...]:
    """Return a warning if the newest version of this name has another task, base family or labels, else nothing."""
    registry = Registry(store)
    try:
        newest = registry.version(name)
        known = _use_of(newest.meta)
    except (NotFound, Damaged):
        return ()
    changes = list(_changes(known, planned))
    return (_warning(newest, changes),) if changes else ()


def _use_of(meta: Mapping[str, Any]) -> NameUse:
    task, base = meta.get("task") or {}, meta.get("base") or {}
    return NameUse(str(task.get("type", "")), str(base.get("family") or ""), tuple(meta.get("labels") or ()))


def _changes(known: NameUse, planned: NameUse) -> Iterator[str]:
    """Yield each difference as words."""
    if known.task and known.task != planned.task:
        yield f"task {planned.task} instead of {known.task}"
    if known.family and planned.family and known.family != planned.family:
        yield f"a base of the family {planned.family} instead of {known.family}"
    if known.task == planned.task:
        yield from _label_changes(known.labels, planned.labels)


def _label_changes(known: Iterable[str], planned: Iterable[str]) -> Iterator[str]:
    before, after = set(known), set(planned)
    if gone := sorted(before - after):
        yield f"no more label {_listed(gone)}"
    if new := sorted(after - before):
        yield f"the new label {_listed(new)}"


def _listed(labels: list[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more


def _warning(newest: Version, changes: list[str]) -> str:
    return (
        f"warning: the name {newest.name} is taken by another kind of model; compared with {newest}, the version that "
        f"this run registers has {'; '.join(changes)}. Whoever loads {newest.name} without a version gets it then: "
        "write another name if that is not meant"
    )
