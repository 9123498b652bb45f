"""Which versions does a model have, and which of them do its aliases mean?

`models/<name>/v3/` holds a version, listed once its manifest is there; `models/<name>/aliases/<alias>.json` says which
version an alias means and meant before. A version number is claimed before anything is uploaded and never given twice,
so numbers may have gaps where a publication broke off or a version was deleted.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.errors import Conflict, Damaged, NotFound, RequestError
from regraft.store import documents, names
from regraft.store import manifest as manifests
from regraft.store.documents import Document
from regraft.store.manifest import MANIFEST, Manifest
from regraft.store.names import LATEST, alias_name, is_version, model_name, number_of
from regraft.store.objects import Body, ObjectStore, Stat

CLAIM = "claim.json"
DELETED = "deleted.json"
_MOST_HISTORY = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A published version, `name@version`; `prefix` ends with a slash."""

    name: str
    version: str
    store: ObjectStore = field(repr=False, compare=False)

    @property
    def prefix(self) -> str:
        return f"models/{self.name}/{self.version}/"

    @property
    def number(self) -> int:
        return number_of(self.version)

    @property
    def manifest(self) -> Manifest:
        """Read at first use. Damaged when it cannot be trusted or belongs to another version."""
        # No cached_property: in Python 3.11 one lock is held for all versions of a process while any of them is read.
        known: Manifest | None = self.__dict__.get("_manifest")
        if known is not None:
            return known
        found = manifests.load(self.store, self.prefix)
        told = found.meta.get("name"), found.meta.get("version"), found.kind
        if told != (self.name, self.version, "version"):
            raise Damaged(f"it belongs to {told[2]} {told[0]}@{told[1]}", f"{self.store.url}/{self.prefix}{MANIFEST}")
        self.__dict__["_manifest"] = found
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """What was given to `publish`, with name and version."""
        return self.manifest.meta

    @property
    def id(self) -> str:
        """The manifest's id, unique to this version wherever it is copied."""
        return self.manifest.id

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Registry:
    """The models of a store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def publish(self, name: str, files: Mapping[str, Body], meta: Mapping[str, Any]) -> Version:
        """Publish `files` as the next version of `name`.

        The same delta of the same run (`meta["delta_sha256"]`, `meta["lineage"]["run"]`) is published once: a driver
        that died after publishing and does so again gets the version it made.
        """
        model_name(name)
        taken = sorted({CLAIM, DELETED, MANIFEST} & set(files))
        if taken:
            raise RequestError(f"a file of a version may not be called {taken[0]}")
        for version in self.versions(name):
            if _same_work(version, meta):
                return version
        version = self._claim(name)
        meta = {**meta, "name": name, "version": version.version}
        manifests.commit(self.store, version.prefix, files, kind="version", meta=meta)
        return version

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted."""
        return sorted({name for name, _ in self._published("models/")})

    def versions(self, name: str) -> list[Version]:
        """The published versions of `name`, oldest first; none for a model that does not exist."""
        found = {version for _, version in self._published(f"models/{model_name(name)}/")}
        return [Version(name, version, self.store) for version in sorted(found, key=number_of)]

    def version(self, name: str, ref: str = LATEST) -> Version:
        """The version that `ref` (`v3`, an alias, or `latest`) means; NotFound names those that exist."""
        known = self.versions(name)
        if not known:
            raise names.unknown("model", name, self.models(), self.store.url)
        if ref == LATEST:
            return known[-1]
        wanted = ref if is_version(ref) else self._meant(name, ref)
        for version in known:
            if version.version == wanted:
                return version
        if wanted and wanted != ref:
            raise NotFound(f"{name}@{ref} means {wanted}, which is deleted: promote another version", self.store.url)
        refs = [*self.aliases(name), *(version.version for version in known)]
        raise names.unknown(f"{name}: version or alias", ref, refs, self.store.url)

    @staticmethod
    def parse(reference: str) -> tuple[str, str]:
        """`("name", "alias")` for `name@alias`; see `names.parse`."""
        return names.parse(reference)

    def promote(self, name: str, version: str, alias: str) -> Version:
        """Let `alias` mean `version` (`v3`, another alias, or `latest`) from now on."""
        chosen = self.version(name, version)
        key = _alias_key(name, alias)

        def edit(old: Document | None) -> Document:
            return _moved(old, chosen.version)

        documents.change(self.store, key, edit, on_damaged=_forget_history)
        if not self.store.exists(chosen.prefix + MANIFEST):
            # Deleted between the look and the move: an alias must not be left meaning nothing.
            documents.change(self.store, key, lambda now: _taken_back(now, chosen.version))
            raise NotFound(f"{chosen} was deleted meanwhile", self.store.url)
        return chosen

    def rollback(self, name: str, alias: str) -> Version:
        """Let `alias` mean again what it meant before; deleted versions are passed over."""
        known = {version.version: version for version in self.versions(name)}
        where = self.store.url

        def edit(old: Document | None) -> Document:
            if old is None or old["version"] is None:
                raise names.unknown(f"{name}: alias", alias, self.aliases(name), where)
            history = list(old["history"])
            while history:
                before = history.pop()["version"]
                if before in known and before != old["version"]:
                    return old | {"version": before, "history": history}
            raise NotFound(f"{name}@{alias} means {old['version']} and nothing before that to go back to", where)

        return known[documents.change(self.store, _alias_key(name, alias), edit)["version"]]

    def aliases(self, name: str) -> dict[str, str]:
        """Which version each alias of `name` means."""
        found = {}
        for stat in self.store.list(f"models/{model_name(name)}/aliases/"):
            alias = stat.key.rpartition("/")[2].removesuffix(".json")
            try:
                version = documents.read(self.store, stat.key).get("version")
            except NotFound:
                continue
            if isinstance(version, str):
                found[alias] = version
        return found

    def unalias(self, name: str, alias: str) -> None:
        """Take `alias` away; what it meant is remembered should it be given again. NotFound when there is none."""

        def edit(old: Document | None) -> Document:
            if old is None or old["version"] is None:
                raise names.unknown(f"{name}: alias", alias, self.aliases(name), self.store.url)
            return _moved(old, None)

        documents.change(self.store, _alias_key(name, alias), edit)

    def delete(self, name: str, version: str) -> None:
        """Delete `version`, whose number is not given again; RequestError while an alias means it."""
        prefix = f"models/{model_name(name)}/{version}/"
        if not (is_version(version) and self.store.exists(prefix + DELETED)):
            prefix = self.version(name, version).prefix
        chosen = Version(name, prefix.split("/")[2], self.store)
        self._refuse_while_meant(chosen)
        self.store.put(prefix + DELETED, documents.encode({"at": time.time()}))
        try:
            kept = self.store.get(prefix + MANIFEST)
            self.store.delete([prefix + MANIFEST])
            self._restore_if_meant(chosen, kept)
        except NotFound:
            _log.info("%s was half deleted before; deleting the rest", chosen)
        self._empty(prefix)

    def fetch(self, version: Version, into: Path) -> Path:
        """Download the files of `version` into the folder `into`, verified; Damaged names what is wrong."""
        _ = version.manifest  # refuses another version's manifest before anything is fetched
        manifests.fetch_verified(self.store, version.prefix, into)
        return into

    def collect(self, older_than_s: float) -> list[str]:
        """Delete the files of broken-off publications and deletions not touched for that long; their prefixes."""
        before = time.time() - older_than_s
        folders: dict[str, list[Stat]] = defaultdict(list)
        for stat in self.store.list("models/"):
            parts = stat.key.split("/")
            if len(parts) >= 4 and is_version(parts[2]):
                folders["/".join(parts[:3]) + "/"].append(stat)
        gone = []
        for prefix, stats in folders.items():
            left = {stat.key.removeprefix(prefix) for stat in stats}
            if MANIFEST in left or not left - {CLAIM, DELETED} or max(stat.modified for stat in stats) >= before:
                continue
            self._empty(prefix)
            gone.append(prefix)
        return gone

    def _meant(self, name: str, alias: str) -> str | None:
        try:
            version = documents.read(self.store, _alias_key(name, alias))["version"]
        except NotFound:
            return None
        return str(version) if version else None

    def _published(self, prefix: str) -> Iterator[tuple[str, str]]:
        for stat in self.store.list(prefix):
            parts = stat.key.split("/")
            if len(parts) == 4 and parts[3] == MANIFEST and is_version(parts[2]):
                yield parts[1], parts[2]

    def _claim(self, name: str) -> Version:
        taken = [stat.key.split("/")[2] for stat in self.store.list(f"models/{name}/v")]
        number = max((number_of(version) for version in taken if is_version(version)), default=0) + 1
        while True:
            version = Version(name, f"v{number}", self.store)
            try:
                self.store.put_if_absent(version.prefix + CLAIM, documents.encode({"at": time.time()}))
            except Conflict:
                number += 1
                continue
            return version

    def _refuse_while_meant(self, version: Version) -> None:
        meant = sorted(alias for alias, means in self.aliases(version.name).items() if means == version.version)
        if meant:
            told = f"{version} is what {', '.join(meant)} means: move or remove the alias first"
            raise RequestError(told, self.store.url)

    def _restore_if_meant(self, version: Version, manifest: bytes) -> None:
        """An alias may have been moved here after the first look: then the version, whose files are there, stays."""
        try:
            self._refuse_while_meant(version)
        except RequestError:
            self.store.put(version.prefix + MANIFEST, manifest)
            raise

    def _empty(self, prefix: str) -> None:
        keys = [stat.key for stat in self.store.list(prefix)]
        self.store.delete([key for key in keys if key not in (prefix + CLAIM, prefix + DELETED)])


def _same_work(version: Version, meta: Mapping[str, Any]) -> bool:
    wanted = _work(meta)
    if None in wanted:
        return False
    try:
        return _work(version.meta) == wanted
    except Damaged as error:
        _log.warning("%s is damaged and cannot be compared with the new version: %s", version, error)
    except NotFound:
        _log.info("%s was deleted meanwhile", version)
    return False


def _work(meta: Mapping[str, Any]) -> tuple[Any, Any]:
    lineage = meta.get("lineage")
    return meta.get("delta_sha256"), lineage.get("run") if isinstance(lineage, Mapping) else None


def _alias_key(name: str, alias: str) -> str:
    return f"models/{model_name(name)}/aliases/{alias_name(alias)}.json"


def _moved(old: Document | None, version: str | None) -> Document:
    """The alias document after a move; moving to where it is adds no history."""
    if old is None:
        return {"version": version, "history": []}
    if old["version"] == version or old["version"] is None:
        return old | {"version": version}
    history = [*old["history"], {"version": old["version"], "until": time.time()}]
    return old | {"version": version, "history": history[-_MOST_HISTORY:]}


def _forget_history(error: Damaged) -> None:
    _log.warning("%s; it is written anew, without what it meant before", error)


def _taken_back(now: Document | None, version: str) -> Document:
    """Undo a move to `version` unless the alias has moved on since."""
    if now is None or now["version"] != version:
        return now or {"version": None, "history": []}
    history = list(now["history"])
    return now | {"version": history.pop()["version"] if history else None, "history": history}
