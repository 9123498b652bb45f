"""Preparation of a run on the driver: its name, its base, its rows, and its document in the store."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from regraft.bases.load import load_processor
from regraft.bases.locate import Base, base_named, check_hash, locate
from regraft.contracts import Progress, note
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import Damaged, RequestError
from regraft.spec.run import RunSpec
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.event_log import EventLog
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.memory_check import check_weights_fit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that is ready to train, held by this driver."""

    store: ObjectStore
    spec: RunSpec
    job: Job
    """The job for every rank."""
    started: float
    """Monotonic time at which the command began."""
    log: EventLog
    """Shows events and stores them with the run."""
    lease: Lease


def choose_run(runs: Runs, spec: RunSpec, *, fresh: bool) -> str:
    """Return the name of the newest run of this spec, or a new name if it is to be trained `fresh`."""
    if not fresh:
        same = [info.name for info in runs.list() if info.name == spec.run or info.name.startswith(f"{spec.run}.")]
        return max(same, default=spec.run, key=lambda name: (find_document(runs, name) or {}).get("created", ""))
    if find_document(runs, spec.run) is None:
        return spec.run
    return f"{spec.run}.{secrets.token_hex(3)}"


def find_document(runs: Runs, run: str) -> dict[str, Any] | None:
    """Return the run's document; None if there is none or it is damaged, since the next update replaces it."""
    try:
        return runs.find(run)
    except Damaged as error:
        log.warning("%s", error)
        return None


def build_rows(store: ObjectStore, spec: RunSpec, base: Base, progress: Progress | None) -> Snapshot:
    """Return the spec's rows as a snapshot in the store; emits a note if rows were left out."""
    if spec.compute.workers == 0:
        check_weights_fit(base, LocalHarness())  # before the data are read; workers check their own machines
    snapshot = build_snapshot(store, spec.task, spec.data, processor=lambda: load_processor(base, spec.task.modality))
    for text in (*([skipped_text(snapshot.skipped)] if snapshot.skipped else []), *snapshot.notes):
        note(progress, text)
    return snapshot


def prepare(store: ObjectStore, spec: RunSpec, run: str, progress: Progress | None) -> Job:
    """Locate the base, build the snapshot, write the run's document, and return its job.

    Raises WrongBase or RequestError when the run began with another base or other rows.
    """
    base = locate(spec.base)
    snapshot = build_rows(store, spec, base, progress)
    runs = Runs(store)
    known = find_document(runs, run)
    if known is not None:
        check_unchanged(run, known, base, snapshot)
    else:
        runs.write(run, "spec.yaml", spec.dump().encode())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    created = (known or {}).get("created", now)
    runs.update(
        run,
        state="running",
        model=spec.name,
        base=base.hash,
        data=snapshot.fingerprint,
        rows={"train": len(snapshot.train), "eval": len(snapshot.eval)},
        skipped=dict(snapshot.skipped),
        **({"notes": list(snapshot.notes)} if snapshot.notes else {}),
        created=created,
        score={"name": spec.task.score.name, "mode": spec.task.score.mode},
    )
    fitted = spec.model_copy(update={"task": spec.task.fit_to_rows(snapshot.train.numbers)})
    return Job(
        spec=fitted.model_dump(mode="json"),
        run=run,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        threads=threads_per_rank(spec),
    )


def skipped_text(skipped: Mapping[str, Any]) -> str:
    """Return a line about the rows that were left out."""
    first = f"; the first: {skipped['rows'][0]}" if skipped["rows"] else ""
    return f"left out {skipped['train']} training and {skipped['eval']} evaluation rows that cannot be used{first}"


def threads_per_rank(spec: RunSpec) -> int | None:
    """Return the CPU threads per rank: those of the spec, or this machine's if training runs in this process."""
    if spec.compute.cpus is not None:
        return max(1, int(spec.compute.cpus))
    return len(os.sched_getaffinity(0)) if spec.compute.workers == 0 else None


def check_unchanged(run: str, known: Mapping[str, Any], base: Base, snapshot: Snapshot) -> None:
    """Raise WrongBase or RequestError unless the base and the rows are those that the run began with."""
    if known.get("base") is not None:
        check_hash(base, known["base"], f"run {run} began with that one; --fresh starts another run")
    if known.get("data") not in (None, snapshot.fingerprint):
        raise RequestError(
            f"the rows have changed since run {run} began; --fresh starts another run with the new ones", where="data"
        )


def base_of(spec: RunSpec, job: Job) -> Base:
    """Locate the base that the run began with; raises WrongBase when its reference now leads to another."""
    why = f"run {job.run} began with that one: put it back, or write @ and the hub revision after the base"
    return base_named(spec.base, job.base_hash, why)


def pinned_reference(base: Base) -> str:
    """Return a reference to exactly this base, which stays valid when a hub's branch moves."""
    if base.revision is None or "@" in base.reference:
        return base.reference
    return f"{base.reference}@{base.revision}"


def base_bytes(base: Base) -> int:
    """Return the bytes of the base's weight files."""
    return sum(path.stat().st_size for path in base.path.glob("*.safetensors"))
