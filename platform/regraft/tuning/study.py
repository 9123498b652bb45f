"""The interface of samplers and schedulers: they choose the next trial, and whether a running one continues.

A `Sampler` chooses points, a `StoppingRule` ends trials early, and a `Study` combines the two. It works on plain
records, so a search continues from its stored documents. Random and grid sampling are here, pure functions of the seed
and a count. Optuna and Ray Tune's schedulers are in `cluster`, the only package that imports Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from regraft.contracts import Score
from regraft.spec.run import RunSpec
from regraft.tuning.protocol import Trial
from regraft.tuning.records import OVER, TrialRecord
from regraft.tuning.space import combination, countable, default_points, identity, overrides_at, random_point

SAME = 1000
"""After this many known points in a row, no new ones are assumed to exist in a space without end."""


class Sampler(Protocol):
    """Chooses points."""

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """Return a value for each field of the space, or None when there are no more points.

        `turn` counts the calls of a search; for points that do not depend on results, over all its attempts.
        """
        ...

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Record the score of a point; None for a trial that failed."""
        ...


class StoppingRule(Protocol):
    """Ends trials that are not worth their time."""

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """Return whether a trial continues after its `evaluation`-th evaluation, counted from 1."""
        ...

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """Record the end of a trial after that many evaluations."""
        ...


class RandomPoints:
    """Sampler of the spec's own values first, then of random points; grids are enumerated."""

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        self._space, self._seed = search.space, search.seed
        self._defaults = default_points(spec)

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """Return the `turn`-th point of an endless sequence that spec and seed fix."""
        first = len(self._defaults)
        return self._defaults[turn] if turn < first else random_point(self._space, self._seed, turn - first)

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Ignore the result."""


class GridPoints:
    """Sampler of every combination, once."""

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        self._values = {name: countable(draw) for name, draw in search.space.items()}
        self._points = search.points or 0

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """Return the `turn`-th combination, the last field changing fastest."""
        return combination(self._values, turn) if turn < self._points else None

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Ignore the result."""


class NoStopping:
    """Stopping rule that lets every trial train to its end."""

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """Return True."""
        return True

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """Ignore the end."""


class Study:
    """Sampler and stopping rule over a search's records."""

    def __init__(self, spec: RunSpec, sampler: Sampler, rule: StoppingRule) -> None:
        self._spec, self._sampler, self._rule = spec, sampler, rule
        self._score: Score = spec.task.score
        self._most = spec.searched().most
        # No point of a space that can be counted is missed: many in a row may be known, or not fit their base.
        self._patience = max(SAME, spec.searched().points or 0)
        self._turn = 0
        self._count = 0
        self._seen: dict[str, float | None] = {}
        self._turns: dict[str, int] = {}
        self._reported: dict[str, int] = {}
        self._stopped: set[str] = set()
        self.exhausted = False
        """Whether no further point exists."""
        self.admits: Callable[[Mapping[str, Any]], bool] = lambda overrides: True
        """Whether a point can be a trial; others are passed over."""

    def restore(self, records: Sequence[TrialRecord]) -> None:
        """Replay the decisions and results of earlier attempts; trials that did not end count as chosen."""
        for record in sorted(records, key=lambda record: record.number):
            self._count = max(self._count, record.number + 1)
            self._seen[identity(record.overrides)] = None
            for evaluation, report in enumerate(record.reports, 1):
                self.report(record.id, evaluation, report["metrics"])
            if record.status in OVER:
                self.ended(record)
        self._turn = self._count  # every trial took a turn, so these were all taken

    def suggest(self) -> tuple[Trial, Mapping[str, Any]] | None:
        """Return the next trial with the values drawn for it; None if there is none now or later."""
        if self.exhausted or (self._most is not None and self._count >= self._most):
            return None
        for _ in range(self._patience):
            turn, self._turn = self._turn, self._turn + 1
            drawn = self._sampler.point(turn)
            if drawn is None:
                break
            overrides = overrides_at(self._spec, drawn)
            if (key := identity(overrides)) in self._seen:
                self._sampler.learn(turn, drawn, self._seen[key])
                continue
            if not self.admits(overrides):
                self._sampler.learn(turn, drawn, None)
                continue
            trial = Trial(self._count, overrides)
            self._seen[key], self._count, self._turns[trial.id] = None, self._count + 1, turn
            return trial, drawn
        self.exhausted = True
        return None

    def report(self, trial: str, evaluation: int, metrics: Mapping[str, float]) -> bool:
        """Record a trial's `evaluation`-th evaluation, counted from 1, and return whether the trial continues."""
        value = self._value(metrics)
        reported = self._reported.get(trial, 0)
        # A trial that runs again after its worker died repeats its reports.
        if evaluation == reported:
            return trial not in self._stopped
        if value is None or evaluation < reported:
            return True
        self._reported[trial] = evaluation
        goes_on = self._rule.goes_on(trial, evaluation, value)
        if not goes_on:
            self._stopped.add(trial)
        return goes_on

    def ended(self, record: TrialRecord) -> None:
        """Pass the end of a trial to the rule and its result to the sampler."""
        value = self._value(record.best) if record.best and record.status != "failed" else None
        self._seen[identity(record.overrides)] = value
        self._rule.over(record.id, self._reported.get(record.id, 0), self._last(record))
        self._sampler.learn(self._turns.pop(record.id, -1), record.drawn or record.overrides, value)

    def _last(self, record: TrialRecord) -> float | None:
        return self._value(record.reports[-1]["metrics"]) if record.reports else None

    def _value(self, metrics: Mapping[str, float] | None) -> float | None:
        value = (metrics or {}).get(self._score.name)
        return None if value is None or value != value else float(value)
