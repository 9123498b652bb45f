"""The end of a search: the best registered, the report written, what came out."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.bases.locate import Base
from regraft.contracts import Note, Progress, Registered
from regraft.errors import Damaged, NotFound, RunError
from regraft.lazy import Later
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry
from regraft.training.job import Job, RunState
from regraft.training.prepare import base_bytes
from regraft.training.registration import publish, version_meta
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.protocol import SearchJob, Trial
from regraft.tuning.records import SearchRecord, TrialRecord, best_first, error_line
from regraft.tuning.space import without_search

log = logging.getLogger(__name__)
page = Later("regraft.tuning.pages.page")
"""With matplotlib: read while trials run."""


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


def complete(
    spec: RunSpec,
    job: SearchJob,
    base: Base,
    coordinator: SearchCoordinator,
    began: float,
    *,
    ran: bool,
    progress: Progress | None,
) -> SearchOutcome:
    """Register what is to be registered, write the report, say what came out."""
    record, search_store = coordinator.record, coordinator.search_store
    ranked = best_first([one for one in coordinator.records() if one.status in ("finished", "stopped")], record.score)
    if not ranked:
        record.state, record.seconds = "failed", coordinator.seconds
        search_store.write_record(record)
        raise RunError(nothing(coordinator.records()), where=record.name)
    register_best(spec, job, base, coordinator, ranked, progress)
    winner = ranked[0]
    record.winner, record.state = winner.id, "finished"
    if ran:
        record.seconds = coordinator.seconds
    search_store.write_trials(coordinator.records())
    search_store.write_record(record)
    there = search_store.store.exists(f"{search_store.folder}/report.html")
    report = (
        f"{search_store.store.url}/{search_store.folder}/report.html"
        if there and not ran
        else reported(coordinator, progress)
    )
    meta = version_of(search_store.store, winner)
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
            for one in coordinator.records()
        ],
        shared=record.shared,
        score=record.score["name"],
        winner=winner.id,
        overrides=winner.overrides,
        registered={one.id: one.registered for one in coordinator.records() if one.registered},
        gain=meta.get("gain"),
        delta_bytes=int(meta.get("delta_bytes", 0)),
        base_bytes=base_bytes(base),
        report=report,
        already=not ran,
    )


def read_ahead() -> None:
    """Have the page's libraries read from disk while trials run; that they are missing is told when it is made."""
    with suppress(Exception):
        _ = page.write_report


def version_of(store: ObjectStore, winner: TrialRecord) -> dict[str, Any]:
    """What the winner's version says of itself; nothing where it has none, or it was deleted since."""
    if winner.registered is None:
        return {}
    name, _, version = winner.registered.rpartition("@")
    try:
        return Registry(store).version(name, version).meta
    except (NotFound, Damaged) as error:
        log.info("%s", error)
        return {}


def nothing(records: Sequence[TrialRecord]) -> str:
    """Why there is no winner."""
    failed = [record for record in records if record.error]
    if not failed:
        return "no trial came to a result within the budget: allow more search.seconds; the same command goes on"
    return f"no trial came to a result; the first of {len(failed)} failed with: {failed[0].error}"


def register_best(
    spec: RunSpec,
    job: SearchJob,
    base: Base,
    coordinator: SearchCoordinator,
    ranked: list[TrialRecord],
    progress: Progress | None,
) -> None:
    """Register the best trials, the very best last, so that it is the newest version."""
    wanted = spec.searched().to_register
    count = {"none": 0, "best": 1}[wanted] if isinstance(wanted, str) else wanted
    for record in reversed(ranked[:count]):
        if record.registered:
            continue
        if register(coordinator.search_store.store, spec, job, base, coordinator.record, record, progress):
            coordinator.budget.registered(record.id)
            coordinator.search_store.write_trials(coordinator.records())


def reported(coordinator: SearchCoordinator, progress: Progress | None) -> str:
    """Write the report beside the records; where it is. A page that cannot be made does not end a search."""
    search_store = coordinator.search_store
    with tempfile.TemporaryDirectory(prefix="regraft-report-") as folder:
        try:
            for path in page.write_report(coordinator.record, coordinator.records(), Path(folder)):
                search_store.write(path.name, path)
        except Exception as error:
            log.info("the report failed", exc_info=True)
            if progress is not None:
                progress(Note(f"the report could not be written: {error_line(error)}"))
            return ""
    return f"{search_store.store.url}/{search_store.folder}/report.html"


log = logging.getLogger(__name__)


def checkpoints_of(store: ObjectStore, search: str, trial: str) -> Checkpoints:
    """The checkpoints of one trial, under `searches/<search>/trials/<trial>/checkpoints/`."""
    return Checkpoints.of_trial(store, search, trial)


def register(
    store: ObjectStore,
    spec: RunSpec,
    job: SearchJob,
    base: Base,
    search: SearchRecord,
    record: TrialRecord,
    progress: Progress | None,
) -> bool:
    """Register a trial's best checkpoint, with the metrics of that very checkpoint; False, with a note, when it has
    none that is whole."""
    checkpoints = checkpoints_of(store, job.search, record.id)
    saved = next((one for one in checkpoints.listed() if one.prefix == record.checkpoint), None)
    delta = None
    if saved is not None:
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            try:
                delta = (checkpoints.open(saved, Path(folder)) / "delta.safetensors").read_bytes()
            except Damaged as error:
                log.warning("%s", error)
    name = search.score["name"]
    if saved is None or delta is None or saved.meta["metrics"].get(name) is None:
        if progress is not None:
            why = "has no whole checkpoint (the quota may have left no room for it)"
            progress(Note(f"trial {record.id} {why}, so it is not registered"))
        return False
    if progress is not None and saved.meta["metrics"][name] != (record.best or {}).get(name):
        why = f"there was no room for its best checkpoint; registered is the one with {name}"
        progress(Note(f"trial {record.id}: {why} {saved.meta['metrics'][name]:.4g}"))
    trial = Trial(record.number, record.overrides)
    own = trial.spec(without_search(spec))
    meta = _meta(own, trial, job, base, search, record, saved, delta)
    version = publish(store, own, base, delta, meta)
    record.registered = f"{spec.name}@{version.version}"
    if progress is not None:
        progress(Registered(spec.name, version.version, record.id))
    return True


def _meta(
    own: RunSpec,
    trial: Trial,
    job: SearchJob,
    base: Base,
    search: SearchRecord,
    record: TrialRecord,
    saved: Any,
    delta: bytes,
) -> dict[str, Any]:
    fitted = trial.spec(RunSpec.resolve(job.spec)).model_dump(mode="json")
    run = Job(fitted, f"{job.search}/{trial.id}", job.base_hash, job.fingerprint, job.labels, job.threads)
    state = RunState(seconds=record.seconds, best_correct=record.correct)
    known = {"rows": search.rows, "baselines": search.baselines, "baseline_correct": search.baseline_correct}
    meta = version_meta(own, run, base, saved, state, known, delta)
    meta["lineage"]["search"] = {
        "name": job.search,
        "trial": trial.id,
        "overrides": dict(trial.overrides),
        "sampler": search.sampler,
        "scheduler": search.scheduler,
    }
    return meta
