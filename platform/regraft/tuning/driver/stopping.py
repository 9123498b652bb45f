"""A search that is asked to stop: what its workers look at, and what is recorded of the trials under way."""

from __future__ import annotations

from regraft.errors import Interrupted, Stopped
from regraft.store.checkpoints import Checkpoints
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.driver.workers import SearchLimits
from regraft.units import counted

_NAMED = 4
"""Most trials that the message names."""


def limits_of(coordinator: SearchCoordinator) -> SearchLimits:
    """Return what ends the work of a search's pool."""
    return SearchLimits(coordinator.notice, lambda: coordinator.overtime_s, coordinator.search.seconds or 0.0)


def steps_under_way(coordinator: SearchCoordinator) -> dict[str, int]:
    """Record and return the step of each trial under way: that of its newest checkpoint, from which it continues."""
    store, search = coordinator.search_store.store, coordinator.record.name
    found = {}
    for record in coordinator.records():
        if record.status == "running":
            kept = Checkpoints.of_trial(store, search, record.id).listed()
            found[record.id] = record.step = max((saved.step for saved in kept), default=0)
    return found


def stopped_search(coordinator: SearchCoordinator) -> Stopped:
    """Return the error of a command that was asked to stop, with the trials under way and their steps."""
    notice, steps = coordinator.notice, steps_under_way(coordinator)
    named = ", ".join(f"{trial} at step {step}" for trial, step in list(steps.items())[:_NAMED])
    more = f" and {len(steps) - _NAMED} more" if len(steps) > _NAMED else ""
    what = f"{counted(len(steps), 'trial')} under way ({named}{more})" if steps else "no trial was under way"
    text = f"{notice.reason}: {what}; the same command goes on from there"
    return Interrupted(text, coordinator.record.name) if notice.interrupted else Stopped(text, coordinator.record.name)
