"""Register a search's best trials as model versions."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regraft.contracts import Note, Registered
from regraft.errors import Damaged
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints, SavedCheckpoint
from regraft.training.job import Job, RunState
from regraft.training.registration import TrainedRun, publish, version_meta
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.prepare import PreparedSearch
from regraft.tuning.protocol import Trial
from regraft.tuning.records import TrialRecord
from regraft.tuning.space import without_search

log = logging.getLogger(__name__)


def register_best(prepared: PreparedSearch, coordinator: SearchCoordinator, ranked: Sequence[TrialRecord]) -> None:
    """Register as many of the best trials as the spec asks for, the best one last, as the newest version."""
    wanted = prepared.spec.searched().to_register
    count = {"none": 0, "best": 1}[wanted] if isinstance(wanted, str) else wanted
    for record in reversed(ranked[:count]):
        if record.registered:
            continue
        if register_trial(prepared, record):
            coordinator.budget.registered(record.id)
            coordinator.search_store.write_trials(coordinator.records())


def register_trial(prepared: PreparedSearch, record: TrialRecord) -> bool:
    """Register a trial's best checkpoint with that checkpoint's metrics.

    Returns False, with a note, if the trial has no intact checkpoint.
    """
    store, spec, name = prepared.search_store.store, prepared.spec, prepared.record.score["name"]
    found = _checkpoint_of(prepared, record)
    if found is None or found[0].meta["metrics"].get(name) is None:
        why = "has no complete checkpoint (the quota may have been used up)"
        _note(prepared, f"trial {record.id} {why}, so it is not registered")
        return False
    saved, delta = found
    if saved.meta["metrics"][name] != (record.best or {}).get(name):
        why = f"its best checkpoint exceeded the quota; the one that is registered has {name}"
        _note(prepared, f"trial {record.id}: {why} {saved.meta['metrics'][name]:.4g}")
    trial = Trial(record.number, record.overrides)
    trial_spec = trial.spec(without_search(spec))
    trained = _trained_run(prepared, record, saved, delta)
    version = publish(store, trial_spec, trained, _version_meta(prepared, trial, trained))
    record.registered = f"{spec.name}@{version.version}"
    if prepared.progress is not None:
        prepared.progress(Registered(spec.name, version.version, record.id))
    return True


def _checkpoint_of(prepared: PreparedSearch, record: TrialRecord) -> tuple[SavedCheckpoint, bytes] | None:
    """Return the checkpoint that the record names, and its delta; None if it is missing or damaged."""
    checkpoints = Checkpoints.of_trial(prepared.search_store.store, prepared.record.name, record.id)
    saved = next((one for one in checkpoints.listed() if one.prefix == record.checkpoint), None)
    if saved is None:
        return None
    with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
        try:
            return saved, (checkpoints.open(saved, Path(folder)) / "delta.safetensors").read_bytes()
        except Damaged as error:
            log.warning("%s", error)
            return None


def _trained_run(prepared: PreparedSearch, record: TrialRecord, saved: SavedCheckpoint, delta: bytes) -> TrainedRun:
    job, search, trial = prepared.job, prepared.record, Trial(record.number, record.overrides)
    fitted = trial.spec(RunSpec.resolve(job.spec)).model_dump(mode="json")
    run = Job(fitted, f"{job.search}/{trial.id}", job.base_hash, job.fingerprint, job.labels, job.threads)
    state = RunState(seconds=record.seconds, best_correct=record.correct)
    document = {"rows": search.rows, "baselines": search.baselines, "baseline_correct": search.baseline_correct}
    return TrainedRun(run, prepared.base, saved, delta, state, document)


def _version_meta(prepared: PreparedSearch, trial: Trial, trained: TrainedRun) -> dict[str, Any]:
    job, search = prepared.job, prepared.record
    meta = version_meta(trial.spec(without_search(prepared.spec)), trained)
    meta["lineage"]["search"] = {
        "name": job.search,
        "trial": trial.id,
        "overrides": dict(trial.overrides),
        "sampler": search.sampler,
        "scheduler": search.scheduler,
    }
    return meta


def _note(prepared: PreparedSearch, message: str) -> None:
    if prepared.progress is not None:
        prepared.progress(Note(message))
