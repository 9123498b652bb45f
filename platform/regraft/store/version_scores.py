"""Comparison of a version that is about to be published with the newest version of its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.errors import Damaged, NotFound
from regraft.store.registry import Registry, Version
from regraft.units import finite_number


@dataclass(frozen=True, slots=True)
class BetterVersion:
    """An earlier version that scores better than a new one."""

    version: str
    value: float
    same_rows: bool
    """Whether both were measured on the same rows."""

    def text(self, reference: str, score: str) -> str:
        """Return what follows from it for `reference`, the new version, as a sentence."""
        name = reference.partition("@")[0]
        earlier, rows = f"{name}@{self.version}", "" if self.same_rows else ", though on other rows"
        return (
            f"{reference} scores worse than {earlier}, the newest before it ({score} {self.value:.4f}{rows}). "
            f"{name} without a version now means {reference}: write {earlier}, or give that one an alias "
            f"(regraft models promote {earlier} production)"
        )


def newest_version(registry: Registry, name: str) -> Version | None:
    """Return the newest version of a model that can be read; None if it has none."""
    for version in reversed(registry.versions(name)):
        try:
            _ = version.meta
        except (Damaged, NotFound):
            continue
        return version
    return None


def better_version(earlier: Version | None, meta: Mapping[str, Any]) -> BetterVersion | None:
    """Return `earlier` as the better version if it scores better than the version of `meta`, in the same metric."""
    if earlier is None or earlier.meta.get("score") != meta["score"]:
        return None
    name, sign = meta["score"]["name"], -1.0 if meta["score"]["mode"] == "min" else 1.0
    old, new = (finite_number((one.get("metrics") or {}).get(name)) for one in (earlier.meta, meta))
    if old is None or new is None or sign * new >= sign * old:
        return None
    return BetterVersion(earlier.version, old, _rows(earlier.meta) == _rows(meta))


def _rows(meta: Mapping[str, Any]) -> object:
    return ((meta.get("lineage") or {}).get("data") or {}).get("fingerprint")
