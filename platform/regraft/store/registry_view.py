"""A view of the whole registry for repeated reads: one listing, and only changed alias documents are read again."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.manifest import MANIFEST
from regraft.store.names import is_version, number_of
from regraft.store.objects import ObjectStore, Stat
from regraft.store.schemas import StoredAlias

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegistryModel:
    """One model: its published versions, oldest first, and the version of each alias."""

    versions: tuple[str, ...]
    aliases: Mapping[str, str]
    stamps: Mapping[str, str]
    """For each version a text that changes when its manifest is rewritten: a store may be deleted and recreated."""


class RegistryView:
    """Reads all models of a registry repeatedly; `Registry` answers the same questions for one model at a time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, tuple[tuple[str, float, int], str | None]] = {}
        """For each alias document that was read: tag, time and size in the listing, and the version in it."""

    def models(self) -> Mapping[str, RegistryModel]:
        """Return every model that has a version, by name."""
        versions: dict[str, list[str]] = defaultdict(list)
        stamps: dict[str, dict[str, str]] = defaultdict(dict)
        aliases: dict[str, Stat] = {}
        for stat in self._store.list("models/"):
            parts = stat.key.split("/")
            if len(parts) != 4:
                continue
            if parts[3] == MANIFEST and is_version(parts[2]):
                versions[parts[1]].append(parts[2])
                stamps[parts[1]][parts[2]] = f"{stat.tag} {stat.modified} {stat.size}"
            elif parts[2] == "aliases" and parts[3].endswith(".json"):
                aliases[stat.key] = stat
        targets = self._alias_targets(aliases)
        return {
            name: RegistryModel(
                tuple(sorted(found, key=number_of)), MappingProxyType(targets[name]), MappingProxyType(stamps[name])
            )
            for name, found in versions.items()
        }

    def _alias_targets(self, listed: Mapping[str, Stat]) -> dict[str, dict[str, str]]:
        """Return the version of each alias by model; `listed` are the alias documents by key."""
        targets: dict[str, dict[str, str]] = defaultdict(dict)
        for key, stat in listed.items():
            _, model, _, document = key.split("/")
            if version := self._alias_target(stat):
                targets[model][document.removesuffix(".json")] = version
        self._read = {key: known for key, known in self._read.items() if key in listed}
        return targets

    def _alias_target(self, stat: Stat) -> str | None:
        stamp = (stat.tag, stat.modified, stat.size)
        known = self._read.get(stat.key)
        if known and known[0] == stamp:
            return known[1]
        try:
            target: str | None = documents.read(self._store, stat.key, StoredAlias)["version"]
        except NotFound:
            return None
        except Damaged as error:
            _log.warning("%s; the alias goes on meaning what it meant before", error)
            target = known[1] if known else None
        self._read[stat.key] = (stamp, target)
        return target
