"""One worker of a search: it finds each base once, and hands every trial to those of its base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regraft.contracts import TrunkShared
from regraft.spec.search_bases import base_of_trial, short_bases
from regraft.training.harness import Harness
from regraft.training.memory_check import weight_bytes
from regraft.training.memory_release import free_memory
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.worker.base_trials import BaseTrials
from regraft.tuning.worker.connection import connected
from regraft.tuning.worker.context import WorkerContext, check_search
from regraft.tuning.worker.shared_cuts import sharing_totals


class TrialWorker:
    """Runs trials. No trial loads a base again, or computes outputs that another one has computed.

    Of several bases, models of one at a time are in memory; the limit of kept outputs is shared by all of them.
    `folder` is scratch. An error of one trial fails only that trial; errors of the store or the coordinator end `run`.
    """

    def __init__(self, job: SearchJob, harness: Harness, folder: Path) -> None:
        self.harness = harness
        names = short_bases([base.reference for base in job.bases])
        self._bases: dict[str, BaseTrials] = {}
        for number, one in enumerate(job.apart()):
            reference = one.spec["base"] if job.bases else ""
            place = folder / f"base-{number}" if job.bases else folder
            place.mkdir(exist_ok=True)
            self._bases[reference] = BaseTrials(WorkerContext(one, harness, place, names.get(reference, "")))
        self._active = next(iter(self._bases))
        self._reported: dict[str, float] = {}

    def prepare(self, coordinator: Coordinator) -> None:
        """Locate the bases and open the rows; of a single base, compute the outputs that its depths share.

        The outputs of one base among several are computed when its first trial comes: it may never come.
        """
        first, *others = (one.context for one in self._bases.values())
        first.load()
        for other in others:
            other.load(first)
        # The smallest base: a budget that holds no epoch of it holds none of any.
        check_search(min((first, *others), key=lambda context: weight_bytes(context.base)))
        if not others:
            with connected(coordinator, self.harness.pulse) as connection:
                self._bases[self._active].prepare(connection)

    def run(self, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends, and report each end to the coordinator.

        After a stop notice the trial under way writes a checkpoint, and no other begins: neither is reported as over.
        """
        with connected(coordinator, self.harness.pulse) as connection:
            for reference, group in self._by_base(trials).items():
                if self.harness.notice:
                    break
                self._turn_to(reference).prepare(connection)
                self._bases[reference].run(group, connection)
            self._report_shared(connection)

    def close(self) -> None:
        """Release everything that is loaded."""
        for one in self._bases.values():
            one.close()
        free_memory(self.harness)

    def shared(self) -> dict[str, Any]:
        """Return what trials shared so far: rows, computed, reused, bytes, where, why, saved_s."""
        return sharing_totals(cuts for one in self._bases.values() for cuts in one.context.cuts_by_task.values())

    def _by_base(self, trials: Sequence[Trial]) -> dict[str, list[Trial]]:
        """Return the trials of each base; a trial of an unknown base goes to the active one, which refuses it."""
        found: dict[str, list[Trial]] = {}
        for trial in trials:
            reference = base_of_trial(trial.overrides)
            found.setdefault(reference if reference in self._bases else self._active, []).append(trial)
        return found

    def _turn_to(self, reference: str) -> BaseTrials:
        """Return the trials of a base, after releasing the models of another one."""
        if reference != self._active:
            self._bases[self._active].rest()
            self._active = reference
        return self._bases[reference]

    def _report_shared(self, coordinator: Coordinator) -> None:
        """Report what has been shared since the last report."""
        found = self.shared()
        new = dict(found)
        for name in ("computed", "reused", "bytes", "saved_s"):
            new[name] = found[name] - self._reported.get(name, 0)
            self._reported[name] = found[name]
        coordinator.emit(TrunkShared(**new))
