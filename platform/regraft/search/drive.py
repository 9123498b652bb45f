"""A search from spec to registered winner: check, prepare, hand out trials, write down, register, report.

Nothing here knows where trials run: a `Crew` does. What a search writes down is enough to go on after a kill: trials
that ended are never run again, those that were under way begin anew.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from regraft.bases.locate import Base
from regraft.contracts import Progress
from regraft.data.snapshot import Snapshot
from regraft.errors import AskedWrong, LeaseHeld, RunError, StoreError, WrongBase
from regraft.search.books import Books, folder_of, searches
from regraft.search.check import check_methods
from regraft.search.decide import Decider
from regraft.search.desk import FrontDesk, told
from regraft.search.points import alone, check_space
from regraft.search.register import Registered, register
from regraft.search.report import write_report
from regraft.search.retention import Ledger
from regraft.search.trials import Desk, SearchJob, SearchRecord, Trial, TrialRecord, best_first
from regraft.spec import RunSpec
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.training.session import base_and_rows, base_bytes

log = logging.getLogger(__name__)
FREE = {name: True for name in ("trials", "seconds", "concurrency", "keep", "quota_gb", "to_register")}
"""What may be changed of a search that goes on."""
DEATHS = 5
"""Workers that may die before they ever ran a trial."""


class WorkerDied(Exception):
    """The process that ran trials is gone, and with it what they were doing."""


class Crew(Protocol):
    """Who runs trials: this process, or workers on a cluster."""

    slots: int
    """How many batches of trials run at a time."""

    def ready(self, slot: int, desk: Desk) -> None:
        """Have the base, the rows and the frozen part there; what this raises ends the search. WorkerDied."""
        ...

    def work(self, slot: int, trials: Sequence[Trial], desk: Desk) -> None:
        """Run trials to their ends; StoreError, WorkerDied, or what else went wrong with these trials."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...


Deciding = Callable[[RunSpec], Decider]
Crewing = Callable[[SearchJob], Crew]


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a finished search leaves."""

    model: str
    version: str | None
    """Of the winner; None where nothing was registered."""
    run: str
    """The search's name."""
    metrics: dict[str, float]
    baselines: dict[str, Any]
    seconds: float
    """Wall time of this command."""
    store: str
    trials: list[dict[str, Any]]
    shared: dict[str, Any]
    score: str
    winner: str
    overrides: dict[str, Any]
    registered: dict[str, str] = field(default_factory=dict)
    """Trial to `name@version`."""
    gain: dict[str, Any] | None = None
    delta_bytes: int = 0
    base_bytes: int = 0
    report: str = ""
    """Where the page is."""
    already: bool = False
    """Whether there was nothing left to do."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        names = ("model", "version", "run", "metrics", "baselines", "seconds", "store", "trials", "shared")
        return {name: getattr(self, name) for name in names}


def search_session(
    spec: RunSpec, deciding: Deciding, crewing: Crewing, *, fresh: bool = False, progress: Progress | None = None
) -> SearchOutcome:
    """Search a spec's space; one driver a search, held by a lease."""
    began = time.monotonic()
    check(spec)
    store = open_store(spec.store)
    store.check()
    name = choose_search(store, spec, fresh=fresh)
    with Lease(store, name, folder=folder_of(name)) as lease:
        books = Books(store, name)
        base, snapshot = base_and_rows(store, alone(spec), progress)
        depths = check_methods(spec, base, snapshot.labels)
        record = opened(books, name, spec, base, snapshot)
        job = job_of(spec, name, base, snapshot, depths)
        desk = set_up(spec, record, books, deciding(spec), progress)
        ran = carried_out(desk, job, crewing, lease)
        if lease.lost.is_set():
            raise LeaseHeld("another driver took this search over; it will register the winner", name)
        return complete(spec, job, base, desk, began, ran=ran, progress=progress)


def check(spec: RunSpec) -> None:
    """AskedWrong with what can be known to be wrong by the spec alone."""
    if spec.search is None:
        raise AskedWrong(
            "the spec has no section `search`: write search: {space: {training.lr: {loguniform: [1.0e-5, 1.0e-3]}}}",
            where="search",
        )
    if spec.compute.workers not in (0, 1):
        raise AskedWrong(
            f"compute.workers: {spec.compute.workers} is written; a trial of a search trains in one worker: write 1 "
            "(search.concurrency says how many at a time) or 0 (all in this process)",
            where="search",
        )
    check_space(spec)


def search_name(spec: RunSpec) -> str:
    """The search's name: the model's and a hash of the spec and its space, without how much of it is to be tried."""
    return spec.named({"compute": True, "store": True, "search": FREE})


def choose_search(store: ObjectStore, spec: RunSpec, *, fresh: bool) -> str:
    """The newest search of this very spec, or another name for a fresh one."""
    name = search_name(spec)
    same = [found for found in searches(store) if found == name or found.startswith(f"{name}.")]
    if not fresh:
        return max(same, default=name, key=lambda found: (Books(store, found).record() or _none()).created)
    return f"{name}.{secrets.token_hex(3)}" if same else name


def _none() -> SearchRecord:
    return SearchRecord("", "", {}, {}, "", "", "")


def opened(books: Books, name: str, spec: RunSpec, base: Base, snapshot: Snapshot) -> SearchRecord:
    """The search's record, begun or taken up; it goes on only with the base and the rows that it began with."""
    assert spec.search is not None
    known = books.record()
    if known is not None:
        if known.base_hash != base.hash:
            raise WrongBase(
                f"search {name} began with base {known.base_hash[:12]}, which now is {base.hash[:12]}; --fresh starts "
                "another",
                where="base",
            )
        if known.fingerprint != snapshot.fingerprint:
            raise AskedWrong(
                f"the rows have changed since search {name} began; --fresh starts another search with the new ones",
                where="data",
            )
    score = spec.task.score
    record = known or SearchRecord(
        name=name,
        model=spec.name,
        score={"name": score.name, "mode": score.mode},
        space=spec.model_dump(mode="json")["search"]["space"],
        sampler=spec.search.sampler,
        scheduler=spec.search.scheduler,
        store=spec.store,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=spec.base,
        rows={"train": len(snapshot.train), "eval": len(snapshot.eval)},
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
    )
    record.trials = spec.search.most
    if not record.baselines and spec.training.baselines and "baselines" in spec.task.supports:
        record.baselines = {"majority": majority(snapshot)}
    books.write_spec(spec)
    return record


def majority(snapshot: Snapshot) -> dict[str, float]:
    """Accuracy of always answering the most frequent training label."""
    counts = snapshot.train.counts
    label = max(sorted(counts), key=lambda name: counts[name])
    return {"accuracy": snapshot.eval.counts.get(label, 0) / len(snapshot.eval)}


def job_of(
    spec: RunSpec, name: str, base: Base, snapshot: Snapshot, depths: tuple[int, ...], threads: int | None = None
) -> SearchJob:
    """What every worker is told."""
    bare = alone(spec)
    fitted = bare.model_copy(update={"task": bare.task.fitted(snapshot.train.numbers)})
    return SearchJob(
        spec=fitted.model_dump(mode="json"),
        search=name,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        depths=depths,
        threads=threads,
    )


def set_up(spec: RunSpec, record: SearchRecord, books: Books, decider: Decider, progress: Progress | None) -> FrontDesk:
    """Take up what earlier attempts wrote down, and collect what they left half done."""
    assert spec.search is not None
    records = books.trials()
    quota = round(spec.search.quota_gb * 1e9) if spec.search.quota_gb else None
    ledger = Ledger(books.store, books.folder, spec.task.score, spec.search.keep, quota)
    gone = ledger.collect([one for one in records if one.status in ("finished", "stopped")])
    decider.restore(records)
    if progress is not None:
        if records:
            done = sum(one.status in ("finished", "stopped", "failed") for one in records)
            left = f"; {gone} checkpoints that it left half done are gone" if gone else ""
            note = f"search {record.name} goes on: {done} of its trials are done{left}"
            progress({"event": "note", "message": note})
        progress(
            {
                "event": "search",
                "search": record.name,
                "model": record.model,
                "score": record.score,
                "trials": record.trials,
                "rows": record.rows,
                "seconds": spec.search.seconds,
            }
        )
    return FrontDesk(spec, record, records, decider, ledger, books, progress)


def carried_out(desk: FrontDesk, job: SearchJob, crewing: Crewing, lease: Lease) -> bool:
    """Run trials until there are none; whether any ran. What ends it early is written down first, as far as it goes."""
    first = desk.take()
    while first == []:
        first = desk.take()
    if first is None:
        return False
    with written_down(desk, lease):
        desk.record.state = "running"
        desk.books.write_record(desk.record)
        crew = crewing(job)
        try:
            every_slot(desk, crew, first, lease)
        finally:
            crew.close()
    return True


@contextmanager
def written_down(desk: FrontDesk, lease: Lease) -> Iterator[None]:
    """Leave the search so that the same command goes on, however this ends."""
    try:
        yield
    except BaseException:
        desk.leave()
        if not lease.lost.is_set():
            desk.record.state, desk.record.seconds = "failed", desk.seconds
            # A full disk or a lost server: what ended the search must not be hidden by what it ends too.
            with suppress(StoreError):
                desk.books.write_trials(desk.records())
                desk.books.write_record(desk.record)
        raise


def every_slot(desk: FrontDesk, crew: Crew, first: list[Trial], lease: Lease) -> None:
    """One thread for each slot but the first, which is this one; the first error of any ends all."""
    errors: list[BaseException] = []

    def labour(slot: int, begin: list[Trial]) -> None:
        try:
            slot_works(desk, crew, slot, begin, lease)
        except BaseException as error:
            errors.append(error)
            desk.stop()

    threads = [
        threading.Thread(target=labour, args=(slot, []), daemon=True, name=f"regraft-slot-{slot}")
        for slot in range(1, crew.slots)
    ]
    for thread in threads:
        thread.start()
    labour(0, first)
    if errors and isinstance(errors[0], KeyboardInterrupt):
        raise errors[0]
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def slot_works(desk: FrontDesk, crew: Crew, slot: int, begin: list[Trial], lease: Lease) -> None:
    """One slot: take, run, again."""
    batch: list[Trial] | None = begin
    deaths = 0
    while batch is not None:
        if batch and not lease.lost.is_set():
            try:
                crew.ready(slot, desk)
            except WorkerDied as error:
                deaths += 1
                desk.lost(batch, told(error), blame=False)
                if deaths > DEATHS:
                    raise RunError(f"{deaths} workers died before they could run a trial: {error}") from error
            else:
                deaths = 0
                run_batch(desk, crew, slot, batch)
        elif lease.lost.is_set():
            desk.stop()
        batch = desk.take()


def run_batch(desk: FrontDesk, crew: Crew, slot: int, batch: list[Trial]) -> None:
    """Run some trials; what goes wrong with them stays with them, what goes wrong with the store does not."""
    try:
        crew.work(slot, batch, desk)
    except WorkerDied as error:
        desk.lost(batch, told(error))
    except StoreError:
        raise
    except Exception as error:
        log.info("trials %s", [trial.id for trial in batch], exc_info=True)
        desk.failed(batch, told(error))
    else:
        desk.failed(batch, "it was run, and never told how it ended")


def complete(
    spec: RunSpec,
    job: SearchJob,
    base: Base,
    desk: FrontDesk,
    began: float,
    *,
    ran: bool,
    progress: Progress | None,
) -> SearchOutcome:
    """Register what is to be registered, write the report, say what came out."""
    record, books = desk.record, desk.books
    ranked = best_first([one for one in desk.records() if one.status in ("finished", "stopped")], record.score)
    if not ranked:
        record.state, record.seconds = "failed", desk.seconds
        books.write_record(record)
        raise RunError(nothing(desk.records()), where=record.name)
    found = registered(spec, job, base, desk, ranked, progress)
    winner = ranked[0]
    record.winner, record.state = winner.id, "finished"
    if ran:
        record.seconds = desk.seconds
    books.write_trials(desk.records())
    books.write_record(record)
    report = reported(desk, progress) if ran or found else f"{books.store.url}/{books.folder}/report.html"
    mine = found.get(winner.id)
    return SearchOutcome(
        model=spec.name,
        version=winner.registered.rpartition("@")[2] if winner.registered else None,
        run=record.name,
        metrics=dict(winner.best or {}),
        baselines=record.baselines,
        seconds=time.monotonic() - began,
        store=spec.store,
        trials=[
            {"id": one.id, "overrides": one.overrides, "metrics": one.best or {}, "status": one.status}
            for one in desk.records()
        ],
        shared=record.shared,
        score=record.score["name"],
        winner=winner.id,
        overrides=winner.overrides,
        registered={one.id: one.registered for one in desk.records() if one.registered},
        gain=mine.gain if mine else None,
        delta_bytes=mine.delta_bytes if mine else 0,
        base_bytes=base_bytes(base),
        report=report,
        already=not ran,
    )


def nothing(records: Sequence[TrialRecord]) -> str:
    """Why there is no winner."""
    failed = [record for record in records if record.error]
    if not failed:
        return "no trial came to a result within the budget: allow more search.seconds; the same command goes on"
    return f"no trial came to a result; the first of {len(failed)} failed with: {failed[0].error}"


def registered(
    spec: RunSpec,
    job: SearchJob,
    base: Base,
    desk: FrontDesk,
    ranked: list[TrialRecord],
    progress: Progress | None,
) -> dict[str, Registered]:
    """Register the best trials, the very best last, so that it is the newest version."""
    assert spec.search is not None
    wanted = spec.search.to_register
    count = {"none": 0, "best": 1}[wanted] if isinstance(wanted, str) else wanted
    found = {}
    for record in reversed(ranked[:count]):
        if record.registered:
            continue
        version = register(desk.books.store, spec, job, base, desk.record, record, progress)
        if version is not None:
            found[record.id] = version
            desk.ledger.registered(record.id)
            desk.books.write_trials(desk.records())
    return found


def reported(desk: FrontDesk, progress: Progress | None) -> str:
    """Write the report beside the records; where it is. A page that cannot be made does not end a search."""
    books = desk.books
    with tempfile.TemporaryDirectory(prefix="regraft-report-") as folder:
        try:
            for path in write_report(desk.record, desk.records(), Path(folder)):
                books.write(path.name, path)
        except Exception as error:
            log.info("the report failed", exc_info=True)
            if progress is not None:
                progress({"event": "note", "message": f"the report could not be written: {told(error)}"})
            return ""
    return f"{books.store.url}/{books.folder}/report.html"
