"""Optimizer states that no step will read again: those of registered runs, and of trials of finished searches."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from regraft.errors import Damaged
from regraft.store.checkpoints import OPTIMIZER, Checkpoints, SavedCheckpoint
from regraft.store.lease import Lease, holder
from regraft.store.objects import ObjectStore
from regraft.store.runs import Runs
from regraft.store.searches import folder_of, search_record, searches, trial_documents

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnneededStates:
    """The optimizer states of one run, or of one search, that nothing will read again."""

    kind: str
    """run or search."""
    name: str
    folder: str
    found: tuple[tuple[Checkpoints, SavedCheckpoint], ...]
    bytes: int

    def drop(self, store: ObjectStore) -> int:
        """Delete them and return the freed bytes; damaged checkpoints stay as they are.

        Raises LeaseHeld if a process drives the run by now.
        """
        freed = 0
        with Lease(store, self.name, folder=self.folder):
            for checkpoints, saved in self.found:
                try:
                    freed += checkpoints.drop_optimizer(saved)
                except Damaged as error:
                    _log.warning("the optimizer state of a damaged checkpoint stays: %s", error)
        return freed


def unneeded_states(store: ObjectStore) -> list[UnneededStates]:
    """Return what `drop` may delete: nothing of a run that may go on, or that a process drives."""
    found = []
    for run in Runs(store).list():
        if run.state == "registered" and holder(store, run.name) is None:
            found.append(_of("run", run.name, f"runs/{run.name}", [Checkpoints(store, run.name)]))
    for search in searches(store):
        folder = folder_of(search)
        if search_record(store, search).get("state") == "finished" and holder(store, search, folder=folder) is None:
            over = [trial for trial in trial_documents(store, search) if trial.get("status") in ("finished", "stopped")]
            trials = [Checkpoints.of_trial(store, search, str(trial["id"])) for trial in over]
            found.append(_of("search", search, folder, trials))
    return [one for one in found if one.found]


def _of(kind: str, name: str, folder: str, every: list[Checkpoints]) -> UnneededStates:
    found, count = [], 0
    for checkpoints in every:
        for saved in checkpoints.valid():
            size = sum(entry.size for entry in saved.manifest.files if entry.name == OPTIMIZER)
            if size:
                found.append((checkpoints, saved))
                count += size
    return UnneededStates(kind, name, folder, tuple(found), count)
