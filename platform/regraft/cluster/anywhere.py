"""Runs, searches and stages in this process, or on Ray, as the spec and the address say."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.adaptation.outcome import AdaptOutcome
    from regraft.contracts import Progress
    from regraft.spec.run import RunSpec
    from regraft.training.registration import Outcome
    from regraft.tuning.driver.finish import SearchOutcome


def train_anywhere(
    spec: RunSpec, *, fresh: bool, same: bool, progress: Progress | None, address: str | None
) -> Outcome:
    """Train in this process, or on Ray."""
    if spec.compute.workers == 0:
        # In this process, so that machines without Ray can train too.
        from regraft.training.session import train_local

        return train_local(spec, fresh=fresh, same=same, progress=progress)
    from regraft.cluster.train import train as train_on_ray

    return train_on_ray(spec, fresh=fresh, same=same, progress=progress, address=address)


def search_anywhere(
    spec: RunSpec, *, fresh: bool, same: bool, progress: Progress | None, address: str | None
) -> SearchOutcome:
    """Search in this process, or on Ray; the stages of the spec are trained first."""
    spec = after_stages_of(spec, fresh=fresh, same=same, progress=progress, address=address)
    from regraft.tuning.space import decides_without_tune, one_process_suffices

    if spec.compute.workers == 0 or (not _on_ray(address) and one_process_suffices(spec)):
        # In this process: Ray is not started, and not even imported where Tune decides nothing.
        if decides_without_tune(spec):
            from regraft.tuning.driver.local_worker import search_here
        else:
            from regraft.cluster.search import search_here

        return search_here(spec, fresh=fresh, same=same, progress=progress)
    from regraft.cluster.connect import connected, reading

    # Ray starts while the libraries of models are imported.
    with reading("regraft.tuning.session") as read, connected(address):
        read()
        from regraft.cluster.search import search as search_on_ray

        return search_on_ray(spec, fresh=fresh, same=same, progress=progress, address=address)


def after_stages_of(
    spec: RunSpec, *, fresh: bool, same: bool, progress: Progress | None, address: str | None
) -> RunSpec:
    """Train the stages of a spec; return the spec with the last one's model as its base."""
    if not spec.stages:
        return spec
    from regraft.training.stages import after_stages

    def train_stage(stage: RunSpec) -> Outcome:
        return train_anywhere(stage, fresh=fresh, same=same, progress=progress, address=address)

    return after_stages(spec, train_stage, progress)


def train_candidate_anywhere(spec: RunSpec, finish: Any, *, progress: Progress | None, address: str | None) -> Outcome:
    """Train in this process, or on Ray, and let `finish` end the run; None registers its model."""
    if finish is None:
        return train_anywhere(spec, fresh=False, same=False, progress=progress, address=address)
    if spec.compute.workers == 0:
        from regraft.training.session import train_local

        return train_local(spec, progress=progress, finish=finish)
    from regraft.cluster.train import train_candidate

    return train_candidate(spec, finish, progress=progress, address=address)


def adapt_anywhere(
    spec: RunSpec, ladder: tuple[str, ...] | None, check: str | None, *, progress: Progress | None, address: str | None
) -> AdaptOutcome:
    """Adapt a spec's model to its target, with training in this process or on Ray; the stages come first."""
    from regraft.adaptation.session import AdaptOptions, adapt_session
    from regraft.contracts import NotesOnce
    from regraft.store.scratch_folder import swept

    once = NotesOnce(progress)  # every run reads the same rows

    def trained(one: RunSpec, finish: Any) -> Outcome:
        return train_candidate_anywhere(one, finish, progress=once, address=address)

    with swept():
        ready = after_stages_of(spec, fresh=False, same=False, progress=once, address=address)
        # Runs of an adaptation have names of their own: each would have stages of its own.
        alone = ready.model_copy(update={"stages": ()})
        return adapt_session(alone, trained, AdaptOptions(ladder, check), progress=once)


def _on_ray(address: str | None) -> bool:
    """Return whether a Ray cluster is named, or this process is connected to one."""
    ray = sys.modules.get("ray")
    return bool(address or os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()))
