"""A search from spec to registered winner: check, prepare, hand out trials, write down, register, report.

A `WorkerPool` decides where trials run. The stored records are enough to continue after a kill: finished trials never
run again, interrupted ones start again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from regraft.bases.locate import Base, check_hash, locate
from regraft.contracts import Note, Progress, SearchStarted
from regraft.data.snapshot import Snapshot
from regraft.errors import LeaseHeld, RequestError, StoreError
from regraft.spec.run import RunSpec
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.searches import folder_of, searches
from regraft.training.baselines import majority
from regraft.training.prepare import rows_on
from regraft.tuning.driver.centroid_baseline import measure_centroid
from regraft.tuning.driver.checkpoint_budget import CheckpointBudget
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.finish import SearchOutcome, complete, read_ahead
from regraft.tuning.driver.search_store import SearchStore
from regraft.tuning.driver.workers import LazyPool, PoolFactory, run_slots
from regraft.tuning.model_checks import check_methods
from regraft.tuning.protocol import SearchJob
from regraft.tuning.records import SearchRecord
from regraft.tuning.space import without_search
from regraft.tuning.study import Study
from regraft.tuning.validate import check_search

FREE = {name: True for name in ("trials", "seconds", "concurrency", "keep", "quota_gb", "to_register")}
"""What may be changed of a search that goes on."""
StudyFactory = Callable[[RunSpec], Study]


def search_session(
    spec: RunSpec,
    make_study: StudyFactory,
    pool_factory: PoolFactory,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> SearchOutcome:
    """Search a spec's space; one driver a search, held by a lease."""
    began = time.monotonic()
    check_search(spec)
    store = open_store(spec.store)
    store.check()
    name = choose_search(store, spec, fresh=fresh)
    with Lease(store, name, folder=folder_of(name)) as lease:
        search_store = SearchStore(store, name)
        base = locate(spec.base)
        depths = check_methods(spec, base)
        with ExitStack() as stack:
            known = search_store.record()
            pool = LazyPool(pool_factory, stack, at_once=known is None or known.state != "finished")
            snapshot = rows_on(store, without_search(spec), base, progress)
            record = opened(search_store, known, name, spec, base, snapshot)
            job = job_of(spec, name, base, snapshot, depths)
            coordinator = set_up(spec, record, search_store, make_study(spec), progress)
            ran = carried_out(coordinator, job, pool, lease)
        if lease.lost.is_set():
            raise LeaseHeld("another driver took this search over; it will register the winner", name)
        return complete(spec, job, base, coordinator, began, ran=ran, progress=progress)


def search_name(spec: RunSpec) -> str:
    """The search's name: the model's and a hash of the spec and its space, without how much of it is to be tried."""
    return spec.named({"compute": True, "store": True, "search": FREE})


def choose_search(store: ObjectStore, spec: RunSpec, *, fresh: bool) -> str:
    """The newest search of this very spec, or another name for a fresh one."""
    name = search_name(spec)
    same = [found for found in searches(store) if found == name or found.startswith(f"{name}.")]
    if not fresh:
        return max(same, default=name, key=lambda found: (SearchStore(store, found).record() or _none()).created)
    return f"{name}.{secrets.token_hex(3)}" if same else name


def _none() -> SearchRecord:
    return SearchRecord("", "", {}, {}, "", "", "")


def opened(
    search_store: SearchStore, known: SearchRecord | None, name: str, spec: RunSpec, base: Base, snapshot: Snapshot
) -> SearchRecord:
    """The search's record, begun or taken up; it goes on only with the base and the rows that it began with."""
    search = spec.searched()
    if known is not None:
        check_hash(base, known.base_hash, f"search {name} began with that one; --fresh starts another search")
        if known.fingerprint != snapshot.fingerprint:
            raise RequestError(
                f"the rows have changed since search {name} began; --fresh starts another search with the new ones",
                where="data",
            )
    score = spec.task.score
    record = known or SearchRecord(
        name=name,
        model=spec.name,
        score={"name": score.name, "mode": score.mode},
        space=spec.model_dump(mode="json")["search"]["space"],
        sampler=search.sampler,
        scheduler=search.scheduler,
        store=spec.store,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=spec.base,
        rows={"train": len(snapshot.train), "eval": len(snapshot.eval)},
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
    )
    record.trials = search.most
    if not record.baselines and spec.training.baselines and "baselines" in spec.task.supports:
        record.baselines = {"majority": majority(snapshot)}
    search_store.write_spec(spec)
    return record


def job_of(spec: RunSpec, name: str, base: Base, snapshot: Snapshot, depths: tuple[int | str, ...]) -> SearchJob:
    """What every worker is told."""
    bare = without_search(spec)
    fitted = bare.model_copy(update={"task": bare.task.fit_to_rows(snapshot.train.numbers)})
    return SearchJob(
        spec=fitted.model_dump(mode="json"),
        search=name,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        depths=depths,
    )


def set_up(
    spec: RunSpec, record: SearchRecord, search_store: SearchStore, study: Study, progress: Progress | None
) -> SearchCoordinator:
    """Take up what earlier attempts wrote down, and collect what they left half done."""
    search = spec.searched()
    records = search_store.trials()
    quota = round(search.quota_gb * 1e9) if search.quota_gb else None
    budget = CheckpointBudget(search_store.store, search_store.folder, spec.task.score, search.keep, quota)
    gone = budget.collect(records)
    study.restore(records)
    if progress is not None:
        if records:
            done = sum(one.status in ("finished", "stopped", "failed") for one in records)
            left = f"; {gone} checkpoints that were left behind are gone" if gone else ""
            note = f"search {record.name} goes on: {done} of its trials are done{left}"
            progress(Note(note))
        progress(
            SearchStarted(
                search=record.name,
                model=record.model,
                score=record.score,
                trials=record.trials,
                rows=record.rows,
                seconds=search.seconds,
            )
        )
    return SearchCoordinator(spec, record, records, study, budget, search_store, progress)


def carried_out(coordinator: SearchCoordinator, job: SearchJob, lazy_pool: LazyPool, lease: Lease) -> bool:
    """Run trials until there are none; whether any ran. What ends it early is written down first, as far as it goes."""
    first = coordinator.take()
    while first == []:
        first = coordinator.take()
    if first is None:
        return False
    coordinator.evicted = lease.lost
    with written_down(coordinator, lease):
        coordinator.record.state = "running"
        coordinator.search_store.write_record(coordinator.record)
        pool = lazy_pool.pool()
        pool.assign(job)
        threading.Thread(target=read_ahead, daemon=True, name="regraft-report").start()
        run_slots(coordinator, pool, first, lease)
        measure_centroid(coordinator, pool)
    return True


@contextmanager
def written_down(coordinator: SearchCoordinator, lease: Lease) -> Iterator[None]:
    """Leave the search so that the same command goes on, however this ends."""
    try:
        yield
    except BaseException as ended:
        coordinator.leave()
        if not lease.lost.is_set():
            coordinator.record.state = "interrupted" if isinstance(ended, KeyboardInterrupt) else "failed"
            coordinator.record.seconds = coordinator.seconds
            # A full disk or a lost server: what ended the search must not be hidden by what it ends too.
            with suppress(StoreError):
                coordinator.search_store.write_trials(coordinator.records())
                coordinator.search_store.write_record(coordinator.record)
        raise
