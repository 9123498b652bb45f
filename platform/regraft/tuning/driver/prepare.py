"""The preparation of a search: its name, its record and the job of its workers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from regraft.bases.locate import Base, check_hash
from regraft.contracts import Progress
from regraft.data.row_sample import fit_to_data
from regraft.data.rows import Rows
from regraft.data.snapshot import Snapshot
from regraft.spec.auto import as_before, open_keys, same_choice
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import bases_of
from regraft.store.objects import ObjectStore
from regraft.store.searches import searches
from regraft.store.version_scores import BetterVersion
from regraft.training.baselines import majority, majority_correct
from regraft.training.prepare import RowsChanged, numbered
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.protocol import JobBase, SearchJob
from regraft.tuning.records import SearchRecord, TrialRecord
from regraft.tuning.searched_bases import SearchedBases
from regraft.tuning.space import without_search

FREE = {name: True for name in ("trials", "seconds", "concurrency", "keep", "quota_gb", "to_register")}
"""Fields of the search section that may change between attempts of one search."""


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A search that is ready to run its trials."""

    spec: RunSpec
    base: Base
    job: SearchJob
    record: SearchRecord
    search_store: SearchStore
    progress: Progress | None
    notes: tuple[str, ...] = ()
    """Sentences about the rows, for the cards of registered trials."""
    test: Rows | None = None
    """The test rows, on which each trial is measured once when it is registered."""
    bases: SearchedBases | None = None
    """Every base of the search; None where `base` is the only one."""
    added: dict[str, BetterVersion | None] = field(default_factory=dict)
    """Trials that this command registered, each with an earlier version that scores better, if there is one."""

    def base_of(self, trial: TrialRecord) -> Base:
        """Return the base of a trial."""
        return self.base if self.bases is None else self.bases.of(trial.overrides)


def search_name(spec: RunSpec) -> str:
    """Return the search's name: the model's, and a hash of the spec and its space without the fields of FREE."""
    return spec.named({"compute": True, "store": True, "search": FREE})


def choose_search(store: ObjectStore, spec: RunSpec, *, fresh: bool) -> str:
    """Return the name of the newest search of this spec, or an unused name for a fresh one."""
    name = search_name(spec)
    same = [found for found in searches(store) if found == name or found.startswith(f"{name}.")]
    if not fresh:
        mine = [found for found in same if same_choice(spec, _choice(SearchStore(store, found).record()))]
        if same and not mine:
            return next(found for found in numbered(name) if found not in same)
        same = mine
        # Names grow: of two searches of the same second, the longer name is the newer one.
        return max(same, default=name, key=lambda found: (_created(SearchStore(store, found)), len(found), found))
    return f"{name}.{secrets.token_hex(3)}" if same else name


def _choice(record: SearchRecord | None) -> dict[str, None] | None:
    """Return the keys that are chosen for each trial of a search, None for one before `auto`."""
    return None if record is None or record.auto is None else dict.fromkeys(record.auto)


def with_values(spec: RunSpec, record: SearchRecord | None) -> RunSpec:
    """Return the spec with the numbers of a search that an edition before `auto` began; others are left alone."""
    return as_before(spec) if record is not None and record.auto is None else spec


def search_names(store: ObjectStore, spec: RunSpec, *, fresh: bool) -> Iterator[str]:
    """Yield the search that `choose_search` returns, then unused names for searches with other rows."""
    newest = choose_search(store, spec, fresh=fresh)
    yield newest
    taken = {newest, *searches(store)}
    yield from (name for name in numbered(search_name(spec)) if name not in taken)


def _created(search_store: SearchStore) -> str:
    record = search_store.record()
    return record.created if record is not None else ""


def check_unchanged(record: SearchRecord, bases: Mapping[str, Base], snapshot: Snapshot) -> None:
    """Check that a search continues with its bases and rows. Raises WrongBase or RowsChanged."""
    for reference, base in bases.items():
        pinned = record.bases[reference]["hash"] if record.bases else record.base_hash
        check_hash(base, pinned, f"search {record.name} began with that one; --fresh starts another search")
    if record.fingerprint != snapshot.fingerprint:
        raise RowsChanged(
            f"the rows have changed since search {record.name} began; --fresh starts another search with the new ones",
            where="data",
        )


def new_record(name: str, spec: RunSpec, bases: Mapping[str, Base], snapshot: Snapshot) -> SearchRecord:
    """Return the record of a search that begins."""
    score, search = spec.task.score, spec.searched()
    reference, base = next(iter(bases.items()))
    pinned = {name: {"hash": each.hash} for name, each in bases.items()} if bases_of(search) else {}
    return SearchRecord(
        name=name,
        model=spec.name,
        score={"name": score.name, "mode": score.mode},
        space=spec.model_dump(mode="json")["search"]["space"],
        sampler=search.sampler,
        scheduler=search.scheduler,
        store=spec.store,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=reference,
        rows=snapshot.counts,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        auto=open_keys(spec),
        bases=pinned,
    )


def update_record(record: SearchRecord, spec: RunSpec, snapshot: Snapshot) -> None:
    """Set what may change between attempts: the number of trials, remarks about rows, and a missing baseline."""
    record.trials = spec.searched().most
    record.skipped, record.overlap = dict(snapshot.skipped), snapshot.overlap
    record.test_overlap = None if snapshot.test_overlap is None else dict(snapshot.test_overlap)
    if not spec.training.baselines or "baselines" not in spec.task.supports:
        return
    if not record.baselines:
        record.baselines = {"majority": majority(snapshot)}
    record.majority_correct = majority_correct(snapshot)


def job_of(record: SearchRecord, spec: RunSpec, snapshot: Snapshot, found: SearchedBases) -> SearchJob:
    """Return the job of the search's workers, its task fitted to the training rows."""
    bare = without_search(spec)
    fitted = bare.model_copy(update={"task": fit_to_data(bare.task, snapshot.train)})
    return SearchJob(
        spec=fitted.model_dump(mode="json"),
        search=record.name,
        base_hash=record.base_hash,
        fingerprint=record.fingerprint,
        labels=snapshot.labels,
        depths=found.depths[found.first],
        bases=tuple(JobBase(name, known["hash"], found.depths[name]) for name, known in record.bases.items()),
    )
