"""The seam behind which samplers and schedulers stand: the next trial, and whether a running one goes on.

A `Sampler` chooses points, a `StoppingRule` ends trials early, and a `Study` combines the two over plain records, so
that a search continues from its stored documents. Random and grid sampling are here, pure functions of the seed and a
count; Optuna and Ray Tune's schedulers are in the cluster floor, the only one that imports Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from regraft.contracts import Score
from regraft.spec.run import RunSpec
from regraft.tuning.protocol import Trial
from regraft.tuning.records import TrialRecord
from regraft.tuning.space import combination, countable, drawn_at, identity, overrides_at, own_points

SAME = 1000
"""Points in a row that were all there before: then there are no others."""


class Sampler(Protocol):
    """Chooses points."""

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """A value for each field of the space; `turn` counts the calls of a search, over all its attempts where the
        points do not depend on results. None: there are no more."""
        ...

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """What a point came to; None for a trial that failed."""
        ...


class StoppingRule(Protocol):
    """Ends trials that are not worth their time."""

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """After the `evaluation`-th (from 1) of a trial."""
        ...

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """The trial has ended, after so many evaluations."""
        ...


class RandomPoints:
    """The spec's own values first, then points at random; grids are gone through."""

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        self._space, self._seed = search.space, search.seed
        self._own = own_points(spec)

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """The `turn`-th of an endless sequence that spec and seed fix."""
        return self._own[turn] if turn < len(self._own) else drawn_at(self._space, self._seed, turn - len(self._own))

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Nothing is learned."""


class GridPoints:
    """Every combination, once."""

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        self._values = {name: countable(draw) for name, draw in search.space.items()}
        self._points = search.points or 0

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """The `turn`-th combination, the last field changing fastest."""
        return combination(self._values, turn) if turn < self._points else None

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Nothing is learned."""


class NoStopping:
    """Every trial trains to its end."""

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """Always."""
        return True

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """Nothing to do."""


class Study:
    """Sampler and rule over a search's records."""

    def __init__(self, spec: RunSpec, sampler: Sampler, rule: StoppingRule) -> None:
        self._spec, self._sampler, self._rule = spec, sampler, rule
        self._score: Score = spec.task.score
        self._most = spec.searched().most
        self._turn = 0
        self._count = 0
        self._seen: dict[str, float | None] = {}
        self._turns: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self._stopped: set[str] = set()
        self.exhausted = False
        """No other point is to be had."""

    def restore(self, records: Sequence[TrialRecord]) -> None:
        """Take up what was decided and found before; trials that did not end count as chosen."""
        for record in sorted(records, key=lambda record: record.number):
            self._count = max(self._count, record.number + 1)
            self._seen[identity(record.overrides)] = None
            for evaluation, report in enumerate(record.reports, 1):
                self.report(record.id, evaluation, report["metrics"])
            if record.status in ("finished", "stopped", "failed"):
                self.ended(record)
        self._turn = self._count  # every trial took a turn, so these were all taken

    def suggest(self) -> tuple[Trial, Mapping[str, Any]] | None:
        """The next trial, and what was drawn for it; None when there is none, and there will be none."""
        if self.exhausted or (self._most is not None and self._count >= self._most):
            return None
        for _ in range(SAME):
            turn, self._turn = self._turn, self._turn + 1
            drawn = self._sampler.point(turn)
            if drawn is None:
                break
            overrides = overrides_at(self._spec, drawn)
            if (key := identity(overrides)) in self._seen:
                self._sampler.learn(turn, drawn, self._seen[key])
                continue
            trial = Trial(self._count, overrides)
            self._seen[key], self._count, self._turns[trial.id] = None, self._count + 1, turn
            return trial, drawn
        self.exhausted = True
        return None

    def report(self, trial: str, evaluation: int, metrics: Mapping[str, float]) -> bool:
        """Whether a trial goes on after its `evaluation`-th (from 1)."""
        value = self._value(metrics)
        heard = self._heard.get(trial, 0)
        # A trial that is run again after its worker died tells what it told before.
        if evaluation == heard:
            return trial not in self._stopped
        if value is None or evaluation < heard:
            return True
        self._heard[trial] = evaluation
        goes_on = self._rule.goes_on(trial, evaluation, value)
        if not goes_on:
            self._stopped.add(trial)
        return goes_on

    def ended(self, record: TrialRecord) -> None:
        """A trial is over; what it came to is passed on."""
        value = self._value(record.best) if record.best and record.status != "failed" else None
        self._seen[identity(record.overrides)] = value
        self._rule.over(record.id, self._heard.get(record.id, 0), self._last(record))
        self._sampler.learn(self._turns.pop(record.id, -1), record.drawn or record.overrides, value)

    def _last(self, record: TrialRecord) -> float | None:
        return self._value(record.reports[-1]["metrics"]) if record.reports else None

    def _value(self, metrics: Mapping[str, float] | None) -> float | None:
        value = (metrics or {}).get(self._score.name)
        return None if value is None or value != value else float(value)
