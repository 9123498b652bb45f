"""What stands in the registry now? One listing of it, and only those alias documents read again that changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from regraft.errors import Damaged, NotFound
from regraft.store import documents
from regraft.store.manifest import MANIFEST
from regraft.store.names import is_version, number_of
from regraft.store.objects import ObjectStore, Stat


@dataclass(frozen=True)
class RegistryModel:
    """One model: its published versions, oldest first, and which of them its aliases mean."""

    versions: tuple[str, ...]
    aliases: Mapping[str, str]
    stamps: Mapping[str, str]
    """What of each version is another once its manifest was written anew: a store may be deleted and made again."""


class RegistryView:
    """Looks at a registry again and again; `Registry` answers the same questions one at a time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, tuple[tuple[str, float, int], str | None]] = {}

    def look(self) -> Mapping[str, RegistryModel]:
        """Every model that has a version, by name."""
        versions: dict[str, list[str]] = defaultdict(list)
        aliases: dict[str, dict[str, str]] = defaultdict(dict)
        stamps: dict[str, dict[str, str]] = defaultdict(dict)
        seen = set()
        for stat in self._store.list("models/"):
            parts = stat.key.split("/")
            if len(parts) != 4:
                continue
            if parts[3] == MANIFEST and is_version(parts[2]):
                versions[parts[1]].append(parts[2])
                stamps[parts[1]][parts[2]] = f"{stat.tag} {stat.modified} {stat.size}"
            elif parts[2] == "aliases" and parts[3].endswith(".json"):
                seen.add(stat.key)
                if version := self._meant(stat):
                    aliases[parts[1]][parts[3].removesuffix(".json")] = version
        self._read = {key: kept for key, kept in self._read.items() if key in seen}
        return {
            name: RegistryModel(
                tuple(sorted(found, key=number_of)), MappingProxyType(aliases[name]), MappingProxyType(stamps[name])
            )
            for name, found in versions.items()
        }

    def _meant(self, stat: Stat) -> str | None:
        stamp = (stat.tag, stat.modified, stat.size)
        known = self._read.get(stat.key)
        if known and known[0] == stamp:
            return known[1]
        try:
            version = documents.read(self._store, stat.key).get("version")
        except (NotFound, Damaged):
            return None
        meant = version if isinstance(version, str) else None
        self._read[stat.key] = (stamp, meant)
        return meant
