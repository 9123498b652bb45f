"""The registry: the versions of each model, and the aliases that refer to them.

`models/<name>/v3/` holds a version, which is listed once it has a manifest; `models/<name>/aliases/<alias>.json` holds
the version of an alias and its former versions. A version number is claimed before the upload and never used again, so
numbers have gaps after a failed publication or a deletion.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.errors import Conflict, Damaged, NotFound, RequestError
from regraft.store import documents, names
from regraft.store import manifest as manifests
from regraft.store.documents import Document
from regraft.store.lease import at_work, is_at_work
from regraft.store.manifest import MANIFEST, Manifest
from regraft.store.names import LATEST, alias_name, is_version, model_name, number_of
from regraft.store.objects import Body, ObjectStore, Stat
from regraft.store.schemas import StoredAlias, StoredVersion, check_types, type_problem

CLAIM = "claim.json"
DELETED = "deleted.json"
_MAX_HISTORY = 50

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
        """The manifest, read at first use. Raises Damaged if it is invalid or belongs to another version."""
        # No cached_property: in Python 3.11 its lock is shared by all versions of the process.
        known: Manifest | None = self.__dict__.get("_manifest")
        if known is not None:
            return known
        found = manifests.load(self.store, self.prefix)
        name, version = found.meta.get("name"), found.meta.get("version")
        if (name, version, found.kind) != (self.name, self.version, "version"):
            raise Damaged(f"it belongs to {found.kind} {name}@{version}", f"{self.store.url}/{self.prefix}{MANIFEST}")
        check_types(found.meta, StoredVersion, f"{self.store.url}/{self.prefix}{MANIFEST}")
        self.__dict__["_manifest"] = found
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """The `meta` given to `publish`, with name and version."""
        return self.manifest.meta

    @property
    def id(self) -> str:
        """The manifest's id, unique to this version and the same in copies of it."""
        return self.manifest.id

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Registry:
    """The models of a store, their versions and aliases."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def publish(self, name: str, files: Mapping[str, Body], meta: Mapping[str, Any]) -> Version:
        """Publish `files` as the next version of `name`.

        The same delta of the same run (`meta["delta_sha256"]`, `meta["lineage"]["run"]`) with the same labels is
        published only once: a driver that publishes again after a crash gets the existing version.
        """
        model_name(name)
        taken = sorted({CLAIM, DELETED, MANIFEST} & set(files))
        if taken:
            raise RequestError(f"a file of a version may not be called {taken[0]}")
        if problem := type_problem(meta, StoredVersion):  # such a version could not be read again
            raise RequestError(f"metadata of {name}: {problem}")
        for version in self.versions(name):
            if _same_publication(version, meta):
                return version
        with at_work() as publisher:
            version = self._claim(name, publisher)
            meta = {**meta, "name": name, "version": version.version}
            manifests.commit(self.store, version.prefix, files, kind="version", meta=meta)
        return version

    def models(self) -> list[str]:
        """Return the names of the models that have a version, sorted."""
        return sorted({name for name, _ in self._published("models/")})

    def versions(self, name: str) -> list[Version]:
        """Return the published versions of `name`, oldest first; none for a model that does not exist."""
        found = {version for _, version in self._published(f"models/{model_name(name)}/")}
        return [Version(name, version, self.store) for version in sorted(found, key=number_of)]

    def version(self, name: str, ref: str = LATEST) -> Version:
        """Return the version that `ref` (`v3`, an alias, or `latest`) means. Raises NotFound with the existing ones."""
        known = self.versions(name)
        if not known:
            raise names.unknown("model", name, self.models(), self.store.url)
        if ref == LATEST:
            return known[-1]
        wanted = ref if is_version(ref) else self._alias_target(name, ref)
        for version in known:
            if version.version == wanted:
                return version
        if wanted and wanted != ref:
            raise NotFound(f"{name}@{ref} means {wanted}, which is deleted: promote another version", self.store.url)
        refs = [*self.aliases(name), *(version.version for version in known)]
        raise names.unknown(f"{name}: version or alias", ref, refs, self.store.url)

    @staticmethod
    def parse(reference: str) -> tuple[str, str]:
        """Return `("name", "alias")` for `name@alias`; see `names.parse`."""
        return names.parse(reference)

    def promote(self, name: str, version: str, alias: str) -> Version:
        """Set `alias` to `version` (`v3`, another alias, or `latest`) and return that version."""
        chosen = self.version(name, version)
        key = _alias_key(name, alias)

        def edit(old: Document | None) -> Document:
            return _with_target(old, chosen.version)

        documents.change(self.store, key, edit, on_damaged=_warn_history_lost, schema=StoredAlias)
        if not self.store.exists(chosen.prefix + MANIFEST):
            # The version was deleted after the lookup: the alias must not refer to a version that does not exist.
            documents.change(self.store, key, lambda now: _undone(now, chosen.version), schema=StoredAlias)
            raise NotFound(f"{chosen} was deleted at the same time", self.store.url)
        return chosen

    def rollback(self, name: str, alias: str) -> Version:
        """Set `alias` back to its previous version that still exists, and return that version."""
        known = {version.version: version for version in self.versions(name)}
        where = self.store.url

        def edit(old: Document | None) -> Document:
            if old is None or old["version"] is None:
                raise names.unknown(f"{name}: alias", alias, self.aliases(name), where)
            history = list(old.get("history") or [])
            while history:
                previous = history.pop()["version"]
                if previous in known and previous != old["version"]:
                    return old | {"version": previous, "history": history}
            raise NotFound(f"{name}@{alias} means {old['version']} and has no previous version to go back to", where)

        return known[documents.change(self.store, _alias_key(name, alias), edit, schema=StoredAlias)["version"]]

    def aliases(self, name: str) -> dict[str, str]:
        """Return the version of each alias of `name`; damaged ones are left out (see `damaged_aliases`)."""
        return self._read_aliases(name)[0]

    def damaged_aliases(self, name: str) -> dict[str, Damaged]:
        """Return what is wrong with each alias of `name` that cannot be read."""
        return self._read_aliases(name)[1]

    def _read_aliases(self, name: str) -> tuple[dict[str, str], dict[str, Damaged]]:
        found, damaged = {}, {}
        for stat in self.store.list(f"models/{model_name(name)}/aliases/"):
            alias = stat.key.rpartition("/")[2].removesuffix(".json")
            try:
                version = documents.read(self.store, stat.key, StoredAlias).get("version")
            except NotFound:
                continue
            except Damaged as error:
                damaged[alias] = error
                continue
            if isinstance(version, str):
                found[alias] = version
        return found, damaged

    def unalias(self, name: str, alias: str) -> None:
        """Remove `alias`; its history is kept in case it is set again. Raises NotFound if it does not exist."""

        def edit(old: Document | None) -> Document:
            if old is None or old["version"] is None:
                raise names.unknown(f"{name}: alias", alias, self.aliases(name), self.store.url)
            return _with_target(old, None)

        documents.change(self.store, _alias_key(name, alias), edit, schema=StoredAlias)

    def delete(self, name: str, version: str) -> None:
        """Delete `version`; its number is not used again. Raises RequestError while an alias refers to it."""
        prefix = f"models/{model_name(name)}/{version}/"
        if not (is_version(version) and self.store.exists(prefix + DELETED)):
            prefix = self.version(name, version).prefix
        chosen = Version(name, prefix.split("/")[2], self.store)
        self._refuse_while_aliased(chosen)
        self.store.put(prefix + DELETED, documents.encode({"at": time.time()}))
        try:
            manifest = self.store.get(prefix + MANIFEST)
            self.store.delete([prefix + MANIFEST])
            self._restore_if_aliased(chosen, manifest)
        except NotFound:
            _log.info("%s was partly deleted before; deleting the rest", chosen)
        self._delete_files(prefix)

    def fetch(self, version: Version, into: Path, names: Collection[str] | None = None) -> Path:
        """Download and verify the files of `version` (only `names`, if given) into the folder `into`.

        Raises Damaged, naming the bad file.
        """
        _ = version.manifest  # raises Damaged for another version's manifest before anything is fetched
        manifests.fetch_verified(self.store, version.prefix, into, names)
        return into

    def collect(self, older_than_s: float) -> list[str]:
        """Delete remains of publications and deletions that failed over `older_than_s` seconds ago; return prefixes.

        The claim of a process of this machine protects its publication whatever any clock says.
        """
        before = self.store.now() - older_than_s
        folders: dict[str, list[Stat]] = defaultdict(list)
        for stat in self.store.list("models/"):
            parts = stat.key.split("/")
            if len(parts) >= 4 and is_version(parts[2]):
                folders["/".join(parts[:3]) + "/"].append(stat)
        collected = []
        for prefix, stats in folders.items():
            left = {stat.key.removeprefix(prefix) for stat in stats}
            if MANIFEST in left or not left - {CLAIM, DELETED} or max(stat.modified for stat in stats) >= before:
                continue
            if self._is_under_way(prefix):
                continue
            self._delete_files(prefix)
            collected.append(prefix)
        return collected

    def _is_under_way(self, prefix: str) -> bool:
        try:
            return is_at_work(documents.read(self.store, prefix + CLAIM))
        except (NotFound, Damaged):
            return False

    def _alias_target(self, name: str, alias: str) -> str | None:
        try:
            version = documents.read(self.store, _alias_key(name, alias), StoredAlias)["version"]
        except NotFound:
            return None
        return str(version) if version else None

    def _published(self, prefix: str) -> Iterator[tuple[str, str]]:
        for stat in self.store.list(prefix):
            parts = stat.key.split("/")
            if len(parts) == 4 and parts[3] == MANIFEST and is_version(parts[2]):
                yield parts[1], parts[2]

    def _claim(self, name: str, publisher: Document) -> Version:
        taken = [stat.key.split("/")[2] for stat in self.store.list(f"models/{name}/v")]
        number = max((number_of(version) for version in taken if is_version(version)), default=0) + 1
        while True:
            version = Version(name, f"v{number}", self.store)
            try:
                self.store.put_if_absent(version.prefix + CLAIM, documents.encode({**publisher, "at": time.time()}))
            except Conflict:
                number += 1
                continue
            return version

    def _refuse_while_aliased(self, version: Version) -> None:
        targets, damaged = self._read_aliases(version.name)
        for alias, error in damaged.items():
            raise Damaged(
                f"{error.message}; alias {alias} may mean {version}: set it anew first (regraft models promote)",
                error.where,
            )
        aliases = sorted(alias for alias, target in targets.items() if target == version.version)
        if aliases:
            raise RequestError(
                f"{version} is the version of {', '.join(aliases)}: move or remove the alias first", self.store.url
            )

    def _restore_if_aliased(self, version: Version, manifest: bytes) -> None:
        """Restore the manifest, and so the version, if an alias was set to it after the first check."""
        try:
            self._refuse_while_aliased(version)
        except RequestError:
            self.store.put(version.prefix + MANIFEST, manifest)
            raise

    def _delete_files(self, prefix: str) -> None:
        keys = [stat.key for stat in self.store.list(prefix)]
        self.store.delete([key for key in keys if key not in (prefix + CLAIM, prefix + DELETED)])


def _same_publication(version: Version, meta: Mapping[str, Any]) -> bool:
    wanted = _publication(meta)
    if None in wanted:
        return False
    try:
        return _publication(version.meta) == wanted
    except Damaged as error:
        _log.warning("%s is damaged and cannot be compared with the new version: %s", version, error)
    except NotFound:
        _log.info("%s was deleted at the same time", version)
    return False


def _publication(meta: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    lineage, labels = meta.get("lineage"), list(meta.get("labels") or ())
    return meta.get("delta_sha256"), lineage.get("run") if isinstance(lineage, Mapping) else None, labels


def _alias_key(name: str, alias: str) -> str:
    return f"models/{model_name(name)}/aliases/{alias_name(alias)}.json"


def _with_target(old: Document | None, version: str | None) -> Document:
    """Return the alias document with the new version; setting the same version adds no history."""
    if old is None:
        return {"version": version, "history": []}
    if old["version"] == version or old["version"] is None:
        return old | {"version": version}
    history = [*(old.get("history") or []), {"version": old["version"], "until": time.time()}]
    return old | {"version": version, "history": history[-_MAX_HISTORY:]}


def _warn_history_lost(error: Damaged) -> None:
    _log.warning("%s; it is replaced, without its former versions", error)


def _undone(now: Document | None, version: str) -> Document:
    """Return the alias document without a move to `version`, unless it was set to another version since."""
    if now is None or now["version"] != version:
        return now or {"version": None, "history": []}
    history = list(now.get("history") or [])
    return now | {"version": history.pop()["version"] if history else None, "history": history}
