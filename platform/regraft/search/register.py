"""The best trials as versions of the model, each with the search as its lineage and its own complete spec."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from regraft.bases.locate import Base
from regraft.contracts import Progress
from regraft.errors import Damaged
from regraft.search.points import alone
from regraft.search.trials import SearchJob, SearchRecord, Trial, TrialRecord
from regraft.spec import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore
from regraft.training.job import Job, State
from regraft.training.session import publish, version_meta

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
            progress({"event": "note", "message": f"trial {record.id} {why}, so it is not registered"})
        return False
    if progress is not None and saved.meta["metrics"][name] != (record.best or {}).get(name):
        why = f"there was no room for its best checkpoint; registered is the one with {name}"
        progress({"event": "note", "message": f"trial {record.id}: {why} {saved.meta['metrics'][name]:.4g}"})
    trial = Trial(record.number, record.overrides)
    own = trial.spec(alone(spec))
    meta = _meta(own, trial, job, base, search, record, saved, delta)
    version = publish(store, own, base, delta, meta)
    record.registered = f"{spec.name}@{version.version}"
    if progress is not None:
        progress({"event": "register", "model": spec.name, "version": version.version, "trial": record.id})
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
    state = State(seconds=record.seconds, best_correct=record.correct)
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
