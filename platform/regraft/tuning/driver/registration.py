"""Register the trials of a search that its spec asks for as model versions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from safetensors.torch import load

from regraft.bases.delta import apply_delta
from regraft.contracts import MeasuredOnTest, Registered, note
from regraft.data.snapshot import open_snapshot
from regraft.errors import Damaged, RequestError
from regraft.spec.auto import resolve_auto
from regraft.spec.run import RunSpec
from regraft.spec.search import SearchSpec
from regraft.store.checkpoints import Checkpoints, SavedCheckpoint
from regraft.store.registry import Registry, Version
from regraft.store.scratch_folder import scratch_folder
from regraft.store.version_scores import better_version, newest_version
from regraft.training.distribute import make_accelerator
from regraft.training.harness import LocalHarness
from regraft.training.job import Job, RunState
from regraft.training.registration import TrainedRun, publish, version_meta
from regraft.training.run import build_model
from regraft.training.test_rows import MeasuringSite, measure_test
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.prepare import PreparedSearch
from regraft.tuning.protocol import Trial
from regraft.tuning.records import OVER, TrialRecord
from regraft.tuning.space import without_search

log = logging.getLogger(__name__)


def number_to_keep(search: SearchSpec) -> int:
    """Return the number of best trials whose checkpoint stays: `keep`, or as many as are to be registered."""
    return max(search.keep, search.to_register) if isinstance(search.to_register, int) else search.keep


def trial_asked_for(search: SearchSpec) -> str | None:
    """Return the trial that `register` names; None where it says how many of the best."""
    named = search.to_register
    return named if isinstance(named, str) and named not in ("none", "best") else None


def check_trial_asked_for(prepared: PreparedSearch, records: Sequence[TrialRecord]) -> None:
    """Raise RequestError if the trial that `register` names does not exist, or cannot become a version."""
    named = trial_asked_for(prepared.spec.searched())
    if named is None:
        return
    record = next((one for one in records if one.id == named), None)
    if record is None:
        known = f"its trials are {records[0].id} to {records[-1].id}" if records else "it has no trials yet"
        raise RequestError(
            f"register: {named} is written, and search {prepared.record.name} has no such trial: {known}. A changed "
            "space is another search; `regraft runs list` shows those of this store",
            where="search",
        )
    if record.status in OVER and record.checkpoint is None and not record.registered:
        raise RequestError(f"register: {named} is written; {_without_checkpoint(prepared, record)}", where="search")


def register_chosen(prepared: PreparedSearch, coordinator: SearchCoordinator, ranked: Sequence[TrialRecord]) -> None:
    """Register the trials that the spec asks for, the best one last, as the newest version."""
    before, search = newest_version(Registry(prepared.search_store.store), prepared.spec.name), prepared.spec.searched()
    chosen, named = _chosen(search, ranked), trial_asked_for(search)
    if named is not None and not chosen:
        note(prepared.progress, f"trial {named} is not registered: it has no result")
    for record in reversed(chosen):
        if record.registered and _exists(prepared, record.registered):
            continue
        if register_trial(prepared, record, before):
            coordinator.budget.registered(record.id)
            coordinator.search_store.write_trials(coordinator.records())


def _chosen(search: SearchSpec, ranked: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    wanted = search.to_register
    if isinstance(wanted, int):
        return ranked[:wanted]
    if (named := trial_asked_for(search)) is not None:
        return [record for record in ranked if record.id == named]
    return ranked[:1] if wanted == "best" else ()


def _exists(prepared: PreparedSearch, reference: str) -> bool:
    """Return whether a version that a trial was registered as is still there: it may have been deleted."""
    name, _, version = reference.rpartition("@")
    known = Registry(prepared.search_store.store).versions(name)
    return any(one.version == version for one in known)


def register_trial(prepared: PreparedSearch, record: TrialRecord, before: Version | None) -> bool:
    """Register a trial's best checkpoint with that checkpoint's metrics; `before` is the newest version until now.

    Returns False, with a note, if the trial has no intact checkpoint.
    """
    store, spec, name = prepared.search_store.store, prepared.spec, prepared.record.score["name"]
    found = _checkpoint_of(prepared, record)
    if found is None or found[0].meta["metrics"].get(name) is None:
        note(prepared.progress, f"trial {record.id} is not registered: {_without_checkpoint(prepared, record)}")
        return False
    saved, delta = found
    if saved.meta["metrics"][name] != (record.best or {}).get(name):
        why = f"the checkpoint of its best evaluation did not fit ({_limit(prepared.spec.searched())})"
        value = f"{saved.meta['metrics'][name]:.4g}"
        note(prepared.progress, f"trial {record.id}: {why}; the one that is registered has {name} {value}")
    trial = Trial(record.number, record.overrides)
    trial_spec = resolve_auto(trial.spec(without_search(spec)), prepared.record.rows["train"])
    trained = _trained_run(prepared, record, saved, delta)
    if prepared.test is not None:
        trained = replace(trained, document={**trained.document, "test": _measured(prepared, trained, record.id)})
    meta = _version_meta(prepared, trial, trained)
    meta["lineage"]["search"]["status"] = record.status
    version = publish(store, trial_spec, trained, meta)
    record.registered = f"{spec.name}@{version.version}"
    prepared.added[record.id] = better_version(before, meta)
    if prepared.progress is not None:
        prepared.progress(Registered(spec.name, version.version, record.id))
    return True


def _measured(prepared: PreparedSearch, trained: TrainedRun, trial: str) -> dict[str, Any]:
    """Measure a trial that is about to be registered on the test rows, in this process; record it for the report."""
    assert prepared.test is not None
    spec, harness = trained.job.resolved(), LocalHarness()
    snapshot = open_snapshot(prepared.search_store.store, trained.job.fingerprint)
    adapted = build_model(spec, snapshot, harness, trained.base)
    apply_delta(adapted, load(trained.delta))
    adapted.model.to(harness.device)
    size = max(32, spec.training.batch_size)
    autocast = make_accelerator(spec.compute, harness).autocast()
    found = measure_test(MeasuringSite(adapted, harness, autocast, size), prepared.test)
    prepared.record.test[trial] = found
    if prepared.progress is not None:
        prepared.progress(MeasuredOnTest(found["rows"], found["metrics"], found["intervals"], trial))
    return found | {"checkpoint": trained.best.prefix, "step": trained.best.step}


def _without_checkpoint(prepared: PreparedSearch, record: TrialRecord) -> str:
    """Return why a trial has no checkpoint that could be registered, and what to do."""
    search = prepared.spec.searched()
    if record.status == "failed":
        return f"it failed: {record.error}"
    if record.checkpoint is not None:
        return "its checkpoint is damaged or has no evaluation"
    kept = f"search.keep is {search.keep}, so that the checkpoints of the {search.keep} best trials stay"
    limit = f", within search.quota_gb ({search.quota_gb:g} GB)" if search.quota_gb else ""
    return f"its checkpoint was not kept: {kept}{limit}. A larger number keeps more of the trials that are to come"


def _limit(search: SearchSpec) -> str:
    return f"search.quota_gb is {search.quota_gb:g}" if search.quota_gb else "there was no space for it"


def _checkpoint_of(prepared: PreparedSearch, record: TrialRecord) -> tuple[SavedCheckpoint, bytes] | None:
    """Return the checkpoint that the record names, and its delta; None if it is missing or damaged."""
    checkpoints = Checkpoints.of_trial(prepared.search_store.store, prepared.record.name, record.id)
    saved = next((one for one in checkpoints.listed() if one.prefix == record.checkpoint), None)
    if saved is None:
        return None
    with scratch_folder() as folder:
        try:
            return saved, (checkpoints.open(saved, folder) / "delta.safetensors").read_bytes()
        except Damaged as error:
            log.warning("%s", error)
            return None


def _trained_run(prepared: PreparedSearch, record: TrialRecord, saved: SavedCheckpoint, delta: bytes) -> TrainedRun:
    job, search, trial = prepared.job, prepared.record.seen_from(record), Trial(record.number, record.overrides)
    fitted = resolve_auto(trial.spec(RunSpec.resolve(job.spec)), search.rows["train"]).model_dump(mode="json")
    run = Job(fitted, f"{job.search}/{trial.id}", search.base_hash, job.fingerprint, job.labels, job.threads)
    state = RunState(seconds=record.seconds, best_correct=record.correct)
    document = {
        "rows": search.rows,
        "baselines": search.baselines,
        "baseline_correct": search.baseline_correct,
        "majority_correct": search.majority_correct,
        "notes": prepared.notes,
        "skipped": search.skipped,
        "overlap": search.overlap,
        "test_overlap": search.test_overlap,
    }
    return TrainedRun(run, prepared.base_of(record), saved, delta, state, document)


def _version_meta(prepared: PreparedSearch, trial: Trial, trained: TrainedRun) -> dict[str, Any]:
    job, search = prepared.job, prepared.record
    spec = resolve_auto(trial.spec(without_search(prepared.spec)), search.rows["train"])
    meta = version_meta(spec, trained)
    meta["lineage"]["search"] = {
        "name": job.search,
        "trial": trial.id,
        "overrides": dict(trial.overrides),
        "sampler": search.sampler,
        "scheduler": search.scheduler,
    }
    return meta
