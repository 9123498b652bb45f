"""A search from spec to registered winner: check, prepare, run trials, register, report.

A `WorkerPool` decides where trials run. The stored records are enough to continue after a kill: finished trials never
run again, interrupted ones start again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from regraft.contracts import Note, NotesOnce, Progress, SearchStarted, note
from regraft.data.snapshot import Snapshot
from regraft.errors import DataError, RequestError, Stopped, StoreError
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import bases_of
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.searches import folder_of
from regraft.training.prepare import RowsChanged, build_rows
from regraft.training.stop_signals import on_interrupt, on_sigterm
from regraft.tuning.driver.centroid_baseline import measure_centroid
from regraft.tuning.driver.checkpoint_budget import CheckpointBudget
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.finish import Ending, SearchOutcome, complete, read_ahead
from regraft.tuning.driver.prepare import (
    PreparedSearch,
    check_unchanged,
    job_of,
    new_record,
    search_names,
    update_record,
    with_values,
)
from regraft.tuning.driver.registration import check_trial_asked_for, number_to_keep, trial_asked_for
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.driver.stopping import limits_of, steps_under_way, stopped_search
from regraft.tuning.driver.workers import LazyPool, PoolFactory, WorkStopped, run_slots
from regraft.tuning.protocol import SearchJob
from regraft.tuning.records import OVER, SearchRecord, TrialRecord
from regraft.tuning.searched_bases import left_out_notes, searched_bases
from regraft.tuning.space import without_search
from regraft.tuning.study import Study
from regraft.tuning.validate import check_search

StudyFactory = Callable[[RunSpec], Study]
Again = Literal["continue", "fresh", "same"]


def again_of(*, fresh: bool, same: bool) -> Again:
    """Return what the switches of a command ask for. Raises RequestError where they contradict one another."""
    if fresh and same:
        raise RequestError("--fresh begins another search and --same keeps to the one that there is: write one of them")
    return "fresh" if fresh else "same" if same else "continue"


def search_session(
    spec: RunSpec,
    make_study: StudyFactory,
    make_pool: PoolFactory,
    *,
    again: Again = "continue",
    progress: Progress | None = None,
) -> SearchOutcome:
    """Search a spec's space. A lease admits one driver per search; LeaseHeld if another one takes the search over.

    `again` says which search: `continue` the spec's newest one, or a `fresh` one. Where the rows have changed since the
    newest, another search of the name with a number is begun; with `same`, RowsChanged is raised.
    """
    return search_by(spec, SearchMeans(make_study, make_pool, progress, time.monotonic(), NotesOnce(progress)), again)


def search_by(spec: RunSpec, means: SearchMeans, again: Again = "continue") -> SearchOutcome:
    """Search a spec's space by these means, as `search_session` does."""
    check_search(spec)
    store = open_store(spec.store)
    store.begin()
    store.check()
    names = search_names(store, spec, fresh=again == "fresh")
    while True:
        name = next(names)
        try:
            return _search(store, spec, name, means)
        except RowsChanged:
            if again == "same":
                raise
            note(means.progress, f"the rows have changed since search {name} began: another search begins with them")


@dataclass(frozen=True, slots=True)
class SearchMeans:
    """What a search works with besides its spec and its store."""

    make_study: StudyFactory
    make_pool: PoolFactory
    progress: Progress | None
    started: float
    """Monotonic time at which the command began."""
    reading: Progress
    """Receives the events of reading the rows."""
    report: bool = True
    """Whether a page is written at the end."""


def _search(store: ObjectStore, spec: RunSpec, name: str, means: SearchMeans) -> SearchOutcome:
    """Run or continue the search of that name. Raises RowsChanged before anything is written."""
    progress = means.progress
    with Lease(store, name, folder=folder_of(name)) as lease:
        search_store = SearchStore(store, name)
        known = search_store.record()
        spec = with_values(spec, known)
        found = searched_bases(store, spec)
        base, several = found.bases[found.first], bool(bases_of(spec.search))
        with ExitStack() as stack:
            pool = LazyPool(means.make_pool, stack, at_once=known is None or known.state != "finished")
            as_in = None if known is None else known.fingerprint
            snapshot = build_rows(store, without_search(spec), tuple(found.bases.values()), means.reading, as_in=as_in)
            refuse_unmeasured(snapshot)
            record = known or new_record(name, spec, found.bases, snapshot)
            if several:
                move_bases(search_store, record, list(found.bases))
            check_unchanged(record, found.bases, snapshot)
            update_record(record, spec, snapshot)
            search_store.write_spec(spec)
            job = job_of(record, spec, snapshot, found)
            prepared = PreparedSearch(
                spec,
                base,
                job,
                record,
                search_store,
                progress,
                snapshot.notes,
                snapshot.test,
                found if several else None,
            )
            study = means.make_study(spec)
            study.admits = partial(found.admits, spec)
            for text in left_out_notes(spec, found) if several else ():
                note(progress, text)
            coordinator = coordinate(prepared, study)
            ran = execute(coordinator, job, pool, lease)
        lease.raise_if_lost("another driver took this search over; it will register the winner", name)
        return complete(prepared, coordinator, means.started, Ending(ran, means.report))


def move_bases(search_store: SearchStore, record: SearchRecord, references: Sequence[str]) -> None:
    """Name the bases of record and trials as they are found now, and write both where a place has changed.

    The trials are written first: their places are known by the record's.
    """
    trials = search_store.trials()
    if record.move_bases(references, trials):
        search_store.write_trials(trials)
        search_store.write_record(record)


def refuse_unmeasured(snapshot: Snapshot) -> None:
    """Raise DataError where there are no evaluation rows, by which trials are compared."""
    if not len(snapshot.eval):
        raise DataError(
            "a search compares trials on evaluation rows, and each class has one row: name a file of rows",
            where="data.eval",
        )


def coordinate(prepared: PreparedSearch, study: Study) -> SearchCoordinator:
    """Return the coordinator, with the records of earlier attempts and without the checkpoints that they abandoned."""
    search, search_store = prepared.spec.searched(), prepared.search_store
    records = search_store.trials()
    quota = round(search.quota_gb * 1e9) if search.quota_gb else None
    score = prepared.spec.task.score
    keep = number_to_keep(search)
    budget = CheckpointBudget(search_store.store, search_store.folder, score, keep=keep, quota=quota)
    if named := trial_asked_for(search):
        budget.registered(named)  # its checkpoint is to stay until then
    deleted = budget.collect(records)
    check_trial_asked_for(prepared, records)
    study.restore(records)
    announce(prepared, records, deleted)
    return SearchCoordinator(prepared, records, study, budget)


def announce(prepared: PreparedSearch, records: Sequence[TrialRecord], deleted: int) -> None:
    """Emit the start of the search, and a note if it continues; `deleted` is the number of abandoned checkpoints."""
    if prepared.progress is None:
        return
    record = prepared.record
    if records:
        done = sum(one.status in OVER for one in records)
        left = f"; {deleted} unused checkpoints were deleted" if deleted else ""
        prepared.progress(Note(f"search {record.name} goes on: {done} of its trials are done{left}"))
    prepared.progress(
        SearchStarted(
            search=record.name,
            model=record.model,
            score=record.score,
            trials=record.trials,
            rows=record.rows,
            seconds=prepared.spec.searched().seconds,
        )
    )


def execute(coordinator: SearchCoordinator, job: SearchJob, lazy_pool: LazyPool, lease: Lease) -> bool:
    """Run trials until there are no more, and return whether any ran."""
    first = coordinator.take()
    while first == []:
        first = coordinator.take()
    if first is None:
        return False
    coordinator.evicted = lease.lost
    with saved_on_error(coordinator):
        coordinator.record.state = "running"
        coordinator.search_store.write_record(coordinator.record)
        pool = lazy_pool.pool()
        pool.assign(job, limits_of(coordinator))
        threading.Thread(target=read_ahead, daemon=True, name="regraft-report").start()
        with on_sigterm(coordinator.notice), on_interrupt(coordinator.notice), suppress(WorkStopped):
            run_slots(coordinator, pool, first)
            measure_centroid(coordinator, pool)
        if coordinator.notice:
            raise stopped_search(coordinator)
    return True


@contextmanager
def saved_on_error(coordinator: SearchCoordinator) -> Iterator[None]:
    """Write the records if an error ends the search, so that the same command continues it."""
    try:
        yield
    except BaseException as ended:
        with suppress(StoreError):
            steps_under_way(coordinator)
        coordinator.leave()
        if not coordinator.evicted.is_set():
            coordinator.record.state = "stopped" if isinstance(ended, Stopped | KeyboardInterrupt) else "failed"
            coordinator.record.seconds = coordinator.seconds
            # A full disk or a lost server: a second error of the store must not hide the one that ended the search.
            with suppress(StoreError):
                coordinator.search_store.write_trials(coordinator.records())
                coordinator.search_store.write_record(coordinator.record)
        raise
