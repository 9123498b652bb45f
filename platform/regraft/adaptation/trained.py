"""The trained models of an adaptation: the registered source-only model, and runs that are kept for the choice."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load
from torch import Tensor

from regraft.bases.derived_base import base_named
from regraft.contracts import Task
from regraft.data.snapshot import Snapshot
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore
from regraft.store.registry import Registry, Version
from regraft.store.runs import Runs
from regraft.training.cut_check import CutSite
from regraft.training.distribute import make_accelerator
from regraft.training.harness import Harness
from regraft.training.prepare import PreparedRun, base_of, base_reference, find_document
from regraft.training.registration import Outcome, TrainedRun, best_delta, last_state, publish, version_meta
from regraft.training.run import build_model
from regraft.training.session import Finish

Trainer = Callable[[RunSpec, Finish | None], Outcome]
"""Trains a spec, here or on Ray, and ends its run as told; None registers the model."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained model, registered or not."""

    spec: RunSpec
    run: str
    meta: Mapping[str, Any]
    """The metadata that its version has, or would have."""
    delta: bytes
    version: Version | None = None
    kept: TrainedRun | None = None
    """What its registration needs; None where it is registered."""
    seconds: float = 0.0
    """Wall time of the command that trained it, or found it."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its delta."""
        return load(self.delta)


def train_source(store: ObjectStore, spec: RunSpec, train: Trainer) -> TrainedModel:
    """Train the source-only model, or find it, and return its registered version."""
    started = time.monotonic()
    outcome = train(spec, None)
    return replace(_registered(store, spec, outcome), seconds=time.monotonic() - started)


def train_candidate(store: ObjectStore, spec: RunSpec, train: Trainer) -> TrainedModel:
    """Train a model without registering it; a run of this spec that was finished before is found."""
    started = time.monotonic()
    kept: list[TrainedModel] = []

    def keep(prepared: PreparedRun) -> Outcome:
        kept.append(_unregistered(prepared))
        return _outcome(prepared, kept[-1].meta)

    outcome = train(spec, keep)
    found = kept[-1] if kept else _registered(store, spec, outcome)
    return replace(found, seconds=time.monotonic() - started)


def _registered(store: ObjectStore, spec: RunSpec, outcome: Outcome) -> TrainedModel:
    registry = Registry(store)
    version = registry.version(spec.name, outcome.version)
    return TrainedModel(spec, outcome.run, version.meta, delta_of(version), version)


def delta_of(version: Version) -> bytes:
    """Return the bytes of a version's delta, verified."""
    with tempfile.TemporaryDirectory(prefix="regraft-") as scratch:
        return (Registry(version.store).fetch(version, Path(scratch)) / "delta.safetensors").read_bytes()


def _unregistered(prepared: PreparedRun) -> TrainedModel:
    """Return the best checkpoint of a trained run, with the metadata that its version would have."""
    store, spec, job = prepared.store, prepared.spec, prepared.job
    prepared.lease.raise_if_lost("another driver took this run over while it trained", job.run)
    checkpoints = Checkpoints(store, job.run)
    best, delta = best_delta(checkpoints, spec.task.score, prepared.log)
    document = find_document(Runs(store), job.run) or {}
    trained = TrainedRun(job, base_of(store, spec, job), best, delta, last_state(checkpoints), document)
    meta = version_meta(spec, trained)
    Runs(store).update(
        job.run,
        state="finished",
        step=trained.state.step,
        metrics=meta["metrics"],
        score=meta["score"],
        seconds=meta["seconds"],
    )
    return TrainedModel(spec, job.run, meta, delta, kept=trained)


def _outcome(prepared: PreparedRun, meta: Mapping[str, Any]) -> Outcome:
    return Outcome(
        model=prepared.spec.name,
        version="",
        run=prepared.job.run,
        metrics=dict(meta["metrics"]),
        baselines={},
        seconds=time.monotonic() - prepared.started,
        store=prepared.spec.store,
        score=prepared.spec.task.score.name,
    )


def publish_run(store: ObjectStore, model: TrainedModel, more: Mapping[str, Any]) -> Version:
    """Register a run that was kept for the choice, with `more` metadata."""
    assert model.kept is not None
    version = publish(store, model.spec, model.kept, {**model.meta, **more})
    Runs(store).update(model.run, version=version.version)
    return version


def site_of(store: ObjectStore, model: TrainedModel, snapshot: Snapshot, harness: Harness) -> CutSite:
    """Return a trained model's architecture on this machine, before its delta is loaded."""
    spec = model.spec
    spec = spec.model_copy(update={"task": cast(Task, Task.parse(dict(model.meta["task"])))})
    why = f"run {model.run} began with that one: put it back"
    base = base_named(store, base_reference(spec), str(model.meta["base"]["hash"]), why)
    adapted = build_model(spec, snapshot, harness, base)
    adapted.model.to(harness.device)
    return CutSite(spec, snapshot, adapted, harness, make_accelerator(spec.compute, harness), store, model.run)
