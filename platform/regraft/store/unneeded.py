"""What nothing in a store needs any more: rows that no run or search names, and checkpoints of registered runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from regraft.errors import Damaged, RegraftError
from regraft.store.adaptations import adaptation_record, adaptations
from regraft.store.checkpoints import Checkpoints, remove
from regraft.store.deletion import deletable
from regraft.store.lease import Lease, holder
from regraft.store.manifest import MANIFEST
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.store.searches import search_record, searches


@dataclass(frozen=True, slots=True)
class Unneeded:
    """Rows or checkpoints that may go."""

    name: str
    """The rows' fingerprint, or the run."""
    bytes: int
    drop: Callable[[], None]
    """Delete them. Raises RegraftError with the reason if they are needed by now."""


def unneeded_rows(store: ObjectStore, older_than_s: float) -> list[Unneeded]:
    """Return the stored rows that no run or search names, and that were not written for that long.

    Nothing is returned while a record cannot be read: it may name any of them.
    """
    sizes: dict[str, int] = defaultdict(int)
    written: dict[str, float] = defaultdict(float)
    for stat in store.list("data/"):
        fingerprint, slash, _ = stat.key.removeprefix("data/").partition("/")
        if slash:
            sizes[fingerprint] += stat.size
            written[fingerprint] = max(written[fingerprint], stat.modified)
    if not sizes:
        return []
    try:
        named = _named_rows(store)
    except Damaged:
        return []
    before = store.now() - older_than_s
    return [
        Unneeded(one, sizes[one], partial(_drop_rows, store, one))
        for one in sorted(sizes)
        if one not in named and written[one] < before
    ]


def _named_rows(store: ObjectStore) -> set[str]:
    """Return the fingerprints that runs, searches and adaptations name. Raises Damaged if a record cannot be read."""
    named: set[str] = set()
    for run in Runs(store).list():
        if run.state == "damaged":
            raise Damaged("its record cannot be read", run.name)
        named.add(str(run.fields.get("data")))
    for search in searches(store):
        record = search_record(store, search)
        if record.get("state") == "damaged":
            raise Damaged("its record cannot be read", search)
        named.add(str(record.get("fingerprint")))
    for adaptation in adaptations(store):
        record = adaptation_record(store, adaptation) or {}
        named |= {str(record.get("fingerprint")), str(record.get("labelled"))}
    return named


def _drop_rows(store: ObjectStore, fingerprint: str) -> None:
    if fingerprint in _named_rows(store):
        raise Damaged("a run has begun with these rows by now", f"data/{fingerprint}")
    store.delete([f"data/{fingerprint}/{MANIFEST}"])
    store.delete([stat.key for stat in store.list(f"data/{fingerprint}/")])


def unneeded_checkpoints(store: ObjectStore) -> list[Unneeded]:
    """Return the checkpoints of registered runs; their versions have copies of all that answers need."""
    found = []
    for run in Runs(store).list():
        if run.state == "registered" and holder(store, run.name) is None:
            size = sum(stat.size for stat in store.list(f"runs/{run.name}/checkpoints/"))
            if size:
                found.append(Unneeded(run.name, size, partial(_drop_checkpoints, store, run.name)))
    return found


def _drop_checkpoints(store: ObjectStore, run: str) -> None:
    if not deletable(store, run).versions:
        raise RegraftError("the version that was registered from it is gone, so that they are the only copy", run)
    with Lease(store, run):
        for saved in Checkpoints(store, run).listed():
            remove(store, saved.prefix)
