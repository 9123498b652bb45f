"""A run from spec to registered model: prepare on the driver, train anywhere, complete on the driver."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from regraft.bases.load import load_processor, processor_files
from regraft.bases.locate import Base, locate
from regraft.contracts import Progress, Score
from regraft.data.snapshot import Snapshot, build_snapshot
from regraft.errors import AskedWrong, Damaged, LeaseHeld, NotThere, RunError, Stopped, StoreError, WrongBase
from regraft.release import VERSION
from regraft.spec import RunSpec
from regraft.store.card import model_card
from regraft.store.checkpoints import Checkpoints, Saved, ranked
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.evaluate import gain
from regraft.training.harness import LocalHarness
from regraft.training.job import Job, State
from regraft.training.journal import Journal
from regraft.training.loop import fit
from regraft.training.memory import room_for_weights
from regraft.training.notice import on_sigterm

log = logging.getLogger(__name__)

Execute = Callable[[Job], None]
"""Runs `fit` for a job on whatever there is, and returns when the run's last checkpoint is in the store."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run leaves."""

    model: str
    version: str
    run: str
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    seconds: float
    """Wall time of this command; of the whole run when it was finished before."""
    store: str
    score: str
    gain: dict[str, Any] | None = None
    """Score gained over the nearest centroid: mean, and the 95 % interval low to high."""
    delta_bytes: int = 0
    base_bytes: int = 0
    already: bool = False
    """Whether the run had been finished before this command."""

    def document(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def train_session(spec: RunSpec, execute: Execute, *, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Prepare, execute, complete; one driver a run, held by a lease.

    What is told to a `progress` that is a Journal is kept with the run, what `execute` tells it too.
    """
    say = progress if isinstance(progress, Journal) else Journal(progress)
    began = time.monotonic()
    store = open_store(spec.store)
    store.check()
    runs = Runs(store)
    run = choose_run(runs, spec, fresh=fresh)
    with Lease(store, run) as lease:
        known = find(runs, run)
        if known is not None and known.get("state") == "registered":
            return finished(store, spec, run, known)
        runs.forget_stop(run)
        job = prepare(store, spec, run, say)
        with say.of(runs, run), told_as_failed(runs, run, lease):
            execute(job)
            if lease.lost.is_set():
                raise LeaseHeld("another driver took this run over while it trained; it will register the model", run)
            refuse_unfinished(runs, run)
            return complete(store, spec, job, began, say)


@contextmanager
def told_as_failed(runs: Runs, run: str, lease: Lease) -> Iterator[None]:
    """Write into the run's document that it failed, unless another driver has it now."""
    try:
        yield
    except BaseException as ended:
        if not lease.lost.is_set():
            try:
                runs.update(run, state="stopped" if isinstance(ended, Stopped) else "failed")
            except StoreError as error:
                # A full disk or a lost server: what ended the run must not be hidden by what it ends too.
                log.info("run %s could not be marked as failed: %s", run, error)
        raise


def refuse_unfinished(runs: Runs, run: str) -> None:
    """Stopped when the workers ended before the last step because somebody asked for it."""
    if not runs.stop_asked(run):
        return
    state = last_state(Checkpoints(runs.store, run))
    if not state.finished:
        runs.update(run, step=state.step)
        raise Stopped(f"stopped at step {state.step}, as `regraft runs stop` asked: the same command continues it", run)


def train_local(spec: RunSpec, *, fresh: bool = False, progress: Progress | None = None) -> Outcome:
    """Train in this process, without Ray."""
    say = Journal(progress)

    def execute(job: Job) -> None:
        harness = LocalHarness(progress=say)
        with on_sigterm(harness.notice):
            state = fit(job, harness)
        if harness.notice and not state.finished:
            raise stopped(job, harness.notice.reason)

    return train_session(spec, execute, fresh=fresh, progress=say)


def stopped(job: Job, reason: str) -> Stopped:
    """What a command says that ended before its run did."""
    return Stopped(f"{reason}: what was trained is in a checkpoint, and the same command goes on from there", job.run)


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


def prepare(store: ObjectStore, spec: RunSpec, run: str, progress: Progress | None) -> Job:
    """Find the base, make the snapshot, write down what the run is."""
    base = locate(spec.base)
    if spec.compute.workers == 0:
        room_for_weights(base, LocalHarness())  # before the data are read; workers look where they are
    snapshot = build_snapshot(store, spec.task, spec.data, processor=lambda: load_processor(base, spec.task.modality))
    if snapshot.skipped and progress is not None:
        progress({"event": "note", "message": told_skipped(snapshot.skipped)})
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
    fitted = spec.model_copy(update={"task": spec.task.fitted(snapshot.train.numbers)})
    return Job(
        spec=fitted.model_dump(mode="json"),
        run=run,
        base_hash=base.hash,
        fingerprint=snapshot.fingerprint,
        labels=snapshot.labels,
        threads=threads(spec),
    )


def told_skipped(skipped: Mapping[str, Any]) -> str:
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
    if known.get("base") not in (None, base.hash):
        raise WrongBase(
            f"run {run} began with base {known['base'][:12]}, which now is {base.hash[:12]}; --fresh starts another",
            where="base",
        )
    if known.get("data") not in (None, snapshot.fingerprint):
        raise AskedWrong(
            f"the rows have changed since run {run} began; --fresh starts another run with the new ones", where="data"
        )


def same_base(spec: RunSpec, job: Job) -> Base:
    """The base that the run was trained on; WrongBase when its reference has come to mean another."""
    base = locate(spec.base)
    if base.hash != job.base_hash:
        raise WrongBase(
            f"{spec.base} has hash {base.hash[:12]} now; the run was trained on {job.base_hash[:12]}: put it back, or "
            "write the hub revision behind an @",
            where="base",
        )
    return base


def pinned(base: Base) -> str:
    """The reference by which this very base is found again, after a hub's branch has moved too."""
    if base.revision is None or "@" in base.reference:
        return base.reference
    return f"{base.reference}@{base.revision}"


def base_bytes(base: Base) -> int:
    """Bytes of the base's weights."""
    return sum(path.stat().st_size for path in base.path.glob("*.safetensors"))


def complete(store: ObjectStore, spec: RunSpec, job: Job, began: float, progress: Progress | None) -> Outcome:
    """Register the best checkpoint of a trained run as a model version."""
    checkpoints = Checkpoints(store, job.run)
    score = spec.task.score
    best, delta = best_delta(checkpoints, score, progress)
    state = last_state(checkpoints)
    runs = Runs(store)
    known = find(runs, job.run) or {}
    base = same_base(spec, job)
    meta = version_meta(spec, job, base, best, state, known, delta)
    contents: dict[str, Any] = {
        "delta.safetensors": delta,
        "spec.yaml": spec.dump().encode(),
        "card.md": model_card(meta, spec.model_dump(mode="json")).encode(),
        **{f"processor/{path.name}": path for path in processor_files(base)},
    }
    version = Registry(store).publish(spec.name, contents, meta)
    gained = meta["gain"]
    runs.update(
        job.run,
        state="registered",
        version=version.version,
        step=state.step,
        gain=gained,
        metrics=meta["metrics"],
    )
    if progress is not None:
        progress({"event": "register", "model": spec.name, "version": version.version})
    return Outcome(
        model=spec.name,
        version=version.version,
        run=job.run,
        metrics=meta["metrics"],
        baselines=meta["baselines"],
        seconds=time.monotonic() - began,
        store=spec.store,
        score=score.name,
        gain=gained,
        delta_bytes=len(delta),
        base_bytes=base_bytes(base),
    )


def best_delta(checkpoints: Checkpoints, score: Score, progress: Progress | None) -> tuple[Saved, bytes]:
    """The best evaluated checkpoint whose files verify, and its delta; the earliest of equals."""
    for saved in ranked(checkpoints.sound(), score.name, score.mode):
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            try:
                return saved, (checkpoints.open(saved, Path(folder)) / "delta.safetensors").read_bytes()
            except Damaged as error:
                log.warning("%s", error)
                if progress is not None:
                    message = f"a damaged checkpoint is passed over; the next best is registered: {error}"
                    progress({"event": "note", "message": message})
    raise RunError(
        "no evaluated checkpoint of this run is whole; --fresh trains it from the beginning", where=checkpoints.run
    )


def last_state(checkpoints: Checkpoints) -> State:
    """The state of the newest whole checkpoint."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        found = checkpoints.latest(Path(folder), lambda error: log.warning("%s", error))
        return State.read((found[1] / "state.json").read_bytes()) if found else State()


def version_meta(
    spec: RunSpec, job: Job, base: Base, best: Saved, state: State, known: Mapping[str, Any], delta: bytes
) -> dict[str, Any]:
    """Everything a version says of itself."""
    dump = job.spec
    counts = known.get("rows", {})
    over = gain(counts.get("eval", 0), state.best_correct, known.get("baseline_correct", ""))
    return {
        "name": spec.name,
        "task": dump["task"],
        "method": dump["method"],
        "labels": list(job.labels),
        "dropout": spec.training.dropout,
        "base": {
            "reference": pinned(base),
            "hash": base.hash,
            "processor_hash": base.processor_hash,
            "bytes": base_bytes(base),
        },
        "metrics": best.meta["metrics"],
        "baselines": known.get("baselines", {}),
        "gain": over,
        "score": {"name": spec.task.score.name, "mode": spec.task.score.mode},
        "seed": spec.training.seed,
        "lineage": {
            "run": job.run,
            "checkpoint": best.prefix,
            "data": {"fingerprint": job.fingerprint, "rows": counts},
            "parent": None,
        },
        "delta_sha256": hashlib.sha256(delta).hexdigest(),
        "delta_bytes": len(delta),
        "seconds": state.seconds,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"regraft": VERSION, "torch": installed("torch"), "transformers": installed("transformers")},
    }


def finished(store: ObjectStore, spec: RunSpec, run: str, known: Mapping[str, Any]) -> Outcome:
    """The outcome of a run that had been finished before."""
    try:
        version = Registry(store).version(spec.name, str(known["version"]))
    except NotThere as error:
        raise NotThere(f"run {run} is finished, but its version is gone ({error}); --fresh trains another") from None
    meta = version.meta
    return Outcome(
        model=spec.name,
        version=version.version,
        run=run,
        metrics=meta["metrics"],
        baselines=meta["baselines"],
        seconds=float(meta["seconds"]),
        store=spec.store,
        score=meta["score"]["name"],
        gain=meta.get("gain"),
        delta_bytes=int(meta["delta_bytes"]),
        base_bytes=int(meta["base"].get("bytes", 0)),
        already=True,
    )
