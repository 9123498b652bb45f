"""Deletion of runs, searches and adaptations, never while a process drives them.

The only copy of what a version needs is never deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from regraft.errors import Damaged, NotFound, RequestError
from regraft.store import names
from regraft.store.adaptations import RECORD as ADAPTATION_RECORD
from regraft.store.adaptations import adaptations, read_adaptation
from regraft.store.adaptations import folder_of as folder_of_adaptation
from regraft.store.lease import Lease, holder
from regraft.store.manifest import MANIFEST
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.store.runs import RECORD, Runs
from regraft.store.scratch_folder import scratch_folder
from regraft.store.searches import RECORD as SEARCH_RECORD
from regraft.store.searches import folder_of, search_record, searches, trial_documents

_LEASE = "lease.json"


@dataclass(frozen=True, slots=True)
class Deletable:
    """A run, a search or an adaptation that may be deleted, with everything in its folder."""

    kind: str
    """run, search or adaptation."""
    name: str
    folder: str
    record: str
    """Name of the document that makes it one; it is deleted last, so that a half deleted one is still listed."""
    state: str
    bytes: int
    versions: tuple[str, ...]
    """Versions that were registered from it; they have copies of everything that they need, and stay."""


def deletable(store: ObjectStore, name: str) -> Deletable:
    """Return the run or search of that name.

    Raises NotFound, and RequestError with the reason while it must stay.
    """
    known = searches(store)
    if name in known:
        record = search_record(store, name)
        named = {str(trial["registered"]) for trial in trial_documents(store, name) if trial.get("registered")}
        kind, folder, document = "search", folder_of(name), SEARCH_RECORD
    elif name in adaptations(store):
        record = read_adaptation(store, name) or {"state": "damaged"}
        named = set()
        kind, folder, document = "adaptation", folder_of_adaptation(name), ADAPTATION_RECORD
    else:
        record = _run_record(store, name, known)
        named = {f"{record.get('model')}@{record['version']}"} if record.get("version") else set()
        kind, folder, document = "run", f"runs/{name}", RECORD
    _refuse_while_driven(store, kind, name, folder)
    versions = tuple(_registered_from(store, name, str(record.get("model") or ""), named))
    for version in versions:
        _refuse_if_damaged(version, name)
    return Deletable(
        kind=kind,
        name=name,
        folder=folder,
        record=document,
        state=_state(record),
        bytes=sum(stat.size for stat in store.list(f"{folder}/")),
        versions=tuple(map(str, versions)),
    )


def delete(store: ObjectStore, found: Deletable) -> None:
    """Delete a run or a search. Raises LeaseHeld if a process drives it by now."""
    with Lease(store, found.name, folder=found.folder):
        keys = [stat.key for stat in store.list(f"{found.folder}/")]
        last = [f"{found.folder}/{found.record}", f"{found.folder}/{_LEASE}"]
        # Manifests first: a crash leaves no half checkpoint that a later run would continue from.
        store.delete([key for key in keys if key.endswith(f"/{MANIFEST}")])
        store.delete([key for key in keys if key not in last])
        for key in last:
            store.delete([key])


def _state(record: dict[str, object]) -> str:
    state = str(record.get("state", "unknown"))
    return "interrupted" if state == "running" else state  # no process drives it


def _run_record(store: ObjectStore, name: str, known: list[str]) -> dict[str, object]:
    try:
        record = Runs(store).find(name)
    except Damaged:
        return {"state": "damaged"}
    if record is None:
        every = [*(info.name for info in Runs(store).list()), *known, *adaptations(store)]
        raise names.unknown("run or search", name, every, store.url)
    return record


def _refuse_while_driven(store: ObjectStore, kind: str, name: str, folder: str) -> None:
    driver = holder(store, name, folder=folder)
    if driver is None:
        return
    way = f"`regraft runs stop {name}` ends it with a checkpoint" if kind == "run" else "Ctrl-C there ends it"
    raise RequestError(f"process {driver['pid']} on {driver['host']} drives this {kind} now: {way}", where=name)


def _registered_from(store: ObjectStore, name: str, model: str, named: set[str]) -> Iterator[Version]:
    """Yield the versions that come from a run, or from a trial of a search.

    A version whose manifest cannot be read is one of them if the record names it.
    """
    registry = Registry(store)
    for one in [model] if model else registry.models():
        for version in registry.versions(one):
            try:
                run = str(version.meta.get("lineage", {}).get("run"))
            except (Damaged, NotFound):
                run = name if str(version) in named else ""
            if run == name or run.startswith(f"{name}/"):
                yield version


def _refuse_if_damaged(version: Version, name: str) -> None:
    """Raise RequestError unless every file of a version is as it was written: the run may hold the only good copy."""
    with scratch_folder() as folder:
        try:
            Registry(version.store).fetch(version, folder)
        except (Damaged, NotFound) as error:
            raise RequestError(
                f"{version} comes from it and is damaged ({error.message}), so that its checkpoint may be the only "
                f"whole copy: delete that version first (regraft models delete {version})",
                where=name,
            ) from None
