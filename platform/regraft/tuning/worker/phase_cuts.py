"""The kept outputs that a trial reads: those of each of its phases, in turn."""

from __future__ import annotations

from regraft.training.cut_check import CutSite
from regraft.training.run import Run
from regraft.trunk.cache import Trunk
from regraft.tuning.worker.context import WorkerContext
from regraft.tuning.worker.shared_cuts import Key, SharedCuts, cut_key


class PhaseCuts:
    """Hands a trial the shared outputs of each phase, and counts the rows that it read there."""

    def __init__(self, context: WorkerContext, run: Run, cuts: SharedCuts | None) -> None:
        self._context, self._run, self._cuts = context, run, cuts
        self._begun: list[tuple[Key, float]] = []
        """The cut of each phase so far, and the rows that had been read before it."""

    def next(self) -> Trunk | None:
        """Return the cache that replaces the frozen part in the phase that begins; None if the model computes it."""
        if self._cuts is None:
            return None
        context, run = self._context, self._run
        adapted, harness, phase = run.adapted, context.harness, run.state.phase
        site = CutSite(run.spec, context.snapshot, adapted, harness, run.accelerator, context.store, phase=phase)
        self._begun.append((cut_key(site), self._rows_read() if self._begun else 0.0))
        return self._cuts.trunk(site)

    def count_rows(self) -> None:
        """Count what the trial has read instead of computing it."""
        ends = [*(first for _, first in self._begun[1:]), self._rows_read()]
        for (key, first), end in zip(self._begun, ends, strict=False):
            if self._cuts is not None:
                self._cuts.read(key, end - first)

    def _rows_read(self) -> float:
        """Return the number of rows that the run has trained on and evaluated."""
        run, snapshot = self._run, self._context.snapshot
        evaluations = sum(any(name.startswith("eval_") for name in entry) for entry in run.state.log)
        return len(snapshot.train) * run.state.step / run.per_epoch + len(snapshot.eval) * evaluations
