"""TODO"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from regraft.bases.load import load_processor
from regraft.bases.locate import Base, base_named, check_hash, locate
from regraft.contracts import Note, Progress
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import Damaged, RequestError
from regraft.spec.run import RunSpec
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.memory_check import check_weights_fit

log = logging.getLogger(__name__)


def choose_run(runs: Runs, spec: RunSpec, *, fresh: bool) -> str:
    """The newest run of this very spec, or another name for a fresh one."""
    if not fresh:
        same = [info.name for info in runs.list() if info.name == spec.run or info.name.startswith(f"{spec.run}.")]
        return max(same, default=spec.run, key=lambda name: (find(runs, name) or {}).get("created", ""))
    if find(runs, spec.run) is None:
        return spec.run
    return f"{spec.run}.{secrets.token_hex(3)}"


def find(runs: Runs, run: str) -> dict[str, Any] | None:
    """The run's document; a damaged one counts as none, since the next update writes it anew."""
    try:
        return runs.find(run)
    except Damaged as error:
        log.warning("%s", error)
        return None


def rows_on(store: ObjectStore, spec: RunSpec, base: Base, progress: Progress | None) -> Snapshot:
    """The spec's rows as a snapshot in the store."""
    if spec.compute.workers == 0:
        check_weights_fit(base, LocalHarness())  # before the data are read; workers look where they are
    snapshot = build_snapshot(store, spec.task, spec.data, processor=lambda: load_processor(base, spec.task.modality))
    if snapshot.skipped and progress is not None:
        progress(Note(skipped_text(snapshot.skipped)))
    return snapshot


def prepare(store: ObjectStore, spec: RunSpec, run: str, progress: Progress | None) -> Job:
    """Find the base, make the snapshot, write down what the run is."""
    base = locate(spec.base)
    snapshot = rows_on(store, spec, base, progress)
    runs = Runs(store)
    known = find(runs, run)
    if known is not None:
        same_as_before(run, known, base, snapshot)
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
        created=created,
    )
    fitted = spec.model_copy(update={"task": spec.task.fit_to_rows(snapshot.train.numbers)})
    return Job(
        spec=fitted.model_dump(mode="json"),
        run=run,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        threads=threads(spec),
    )


def skipped_text(skipped: Mapping[str, Any]) -> str:
    """What was left out, in a line."""
    first = f"; the first: {skipped['rows'][0]}" if skipped["rows"] else ""
    return f"left out {skipped['train']} training and {skipped['eval']} evaluation rows that cannot be used{first}"


def threads(spec: RunSpec) -> int | None:
    """CPU threads per rank: what is asked, or this machine's share where training runs in this process."""
    if spec.compute.cpus is not None:
        return max(1, int(spec.compute.cpus))
    return len(os.sched_getaffinity(0)) if spec.compute.workers == 0 else None


def same_as_before(run: str, known: Mapping[str, Any], base: Base, snapshot: Snapshot) -> None:
    """A run goes on only with the base and the rows that it began with."""
    if known.get("base") is not None:
        check_hash(base, known["base"], f"run {run} began with that one; --fresh starts another run")
    if known.get("data") not in (None, snapshot.fingerprint):
        raise RequestError(
            f"the rows have changed since run {run} began; --fresh starts another run with the new ones", where="data"
        )


def base_of(spec: RunSpec, job: Job) -> Base:
    """Locate the base that the run began with; WrongBase when its reference now leads to another."""
    why = f"run {job.run} began with that one: put it back, or write the hub revision behind an @"
    return base_named(spec.base, job.base_hash, why)


def pinned(base: Base) -> str:
    """The reference by which this very base is found again, after a hub's branch has moved too."""
    if base.revision is None or "@" in base.reference:
        return base.reference
    return f"{base.reference}@{base.revision}"


def base_bytes(base: Base) -> int:
    """Bytes of the base's weights."""
    return sum(path.stat().st_size for path in base.path.glob("*.safetensors"))
