"""TODO"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from regraft.bases.load import processor_files
from regraft.bases.locate import Base
from regraft.contracts import Note, Progress, Registered, Score
from regraft.errors import Damaged, NotFound, RunError
from regraft.spec.run import RunSpec
from regraft.store.card import model_card
from regraft.store.checkpoints import Checkpoints, Saved, ranked
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.store.runs import Runs
from regraft.training.evaluate import gain
from regraft.training.job import Job, RunState
from regraft.training.prepare import base_bytes, base_of, find, pinned
from regraft.version import VERSION

log = logging.getLogger(__name__)


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


def complete(store: ObjectStore, spec: RunSpec, job: Job, began: float, progress: Progress | None) -> Outcome:
    """Register the best checkpoint of a trained run as a model version."""
    checkpoints = Checkpoints(store, job.run)
    score = spec.task.score
    best, delta = best_delta(checkpoints, score, progress)
    state = last_state(checkpoints)
    runs = Runs(store)
    known = find(runs, job.run) or {}
    base = base_of(spec, job)
    meta = version_meta(spec, job, base, best, state, known, delta)
    version = publish(store, spec, base, delta, meta)
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
        progress(Registered(spec.name, version.version))
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


def publish(store: ObjectStore, spec: RunSpec, base: Base, delta: bytes, meta: dict[str, Any]) -> Version:
    """Register a delta as the next version of the spec's model."""
    contents: dict[str, Any] = {
        "delta.safetensors": delta,
        "spec.yaml": spec.dump().encode(),
        "card.md": model_card(meta, spec.model_dump(mode="json")).encode(),
        **{f"processor/{path.name}": path for path in processor_files(base)},
    }
    return Registry(store).publish(spec.name, contents, meta)


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
                    progress(Note(message))
    raise RunError(
        "no evaluated checkpoint of this run is whole; --fresh trains it from the beginning", where=checkpoints.run
    )


def last_state(checkpoints: Checkpoints) -> RunState:
    """The state of the newest whole checkpoint."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        found = checkpoints.latest(Path(folder), lambda error: log.warning("%s", error))
        return RunState.read((found[1] / "state.json").read_bytes()) if found else RunState()


def version_meta(
    spec: RunSpec, job: Job, base: Base, best: Saved, state: RunState, known: Mapping[str, Any], delta: bytes
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
    except NotFound as error:
        raise NotFound(f"run {run} is finished, but its version is gone ({error}); --fresh trains another") from None
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
