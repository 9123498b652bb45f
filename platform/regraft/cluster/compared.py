"""Runs and searches with their controls: trained in this process, or on Ray, as the spec and the address say."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from regraft.cluster.anywhere import search_anywhere, train_candidate_anywhere

if TYPE_CHECKING:
    from regraft.comparison.session import Comparing
    from regraft.contracts import Progress
    from regraft.spec.run import RunSpec
    from regraft.training.registration import Outcome
    from regraft.training.session import Finish
    from regraft.tuning.driver.finish import SearchOutcome


def train_compared(
    spec: RunSpec, *, fresh: bool, same: bool, progress: Progress | None, address: str | None
) -> Outcome:
    """Train a model and its controls, and register it with the verdict."""
    from regraft.store.objects import open_store

    comparing = _comparing(progress, address)
    again = {"fresh": fresh, "same": same}

    def train(finish: Finish) -> Outcome:
        if spec.compute.workers == 0:
            from regraft.training.session import train_local

            return train_local(spec, **again, progress=progress, finish=finish)
        from regraft.cluster.train import train_with_stages

        return train_with_stages(spec, finish, **again, progress=progress)

    if spec.compute.workers == 0:
        return comparing.run(open_store(spec.store), train)
    from regraft.cluster.connect import connected

    with connected(address):  # the controls run on the Ray of the model, also on one that is started here
        return comparing.run(open_store(spec.store), train)


def search_compared(
    spec: RunSpec, *, fresh: bool, same: bool, progress: Progress | None, address: str | None
) -> SearchOutcome:
    """Search a space, and compare the registered winner with controls that take its steps."""
    outcome = search_anywhere(spec, fresh=fresh, same=same, progress=progress, address=address)
    if outcome.version is None:
        return outcome
    from regraft.store.objects import open_store

    found = _comparing(progress, address).version(open_store(spec.store), f"{outcome.model}@{outcome.version}")
    return replace(outcome, comparison=found)


def _comparing(progress: Progress | None, address: str | None) -> Comparing:
    from regraft.comparison.session import Comparing
    from regraft.contracts import NotesOnce

    once = NotesOnce(progress)  # every run reads the same rows
    train: Any = partial(train_candidate_anywhere, progress=once, address=address)
    return Comparing(train, progress)
