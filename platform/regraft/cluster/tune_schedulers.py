"""Ray Tune's searchers and schedulers over plain records: no Tune controller, no Ray that runs, no pickled state."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from regraft.spec.run import RunSpec
from regraft.tuning.study import GridPoints, NoStopping, RandomPoints, Sampler, StoppingRule, Study

MOST_EVALUATIONS = 100_000
"""asha makes rungs up to here; a trial ends by itself."""
ENOUGH = 3
"""Other trials without which the median rule says nothing."""
TPE = "regraft.cluster.optuna_sampler"
METRIC = "score"
COUNT = "evaluation"


def tune_study(spec: RunSpec) -> Study:
    """Sampler and scheduler as the spec names them."""
    search = spec.searched()
    sampler: Sampler
    if search.sampler == "optuna":
        # Imported where it is asked for: it takes seconds.
        sampler = importlib.import_module(TPE).OptunaPoints(spec)
    else:
        sampler = GridPoints(spec) if search.sampler == "grid" else RandomPoints(spec)
    rule: StoppingRule = NoStopping() if search.scheduler == "none" else TuneRule(spec)
    return Study(spec, sampler, rule)


class TuneRule:
    """A scheduler of Tune's, asked about trials that are no more than names with numbers."""

    def __init__(self, spec: RunSpec) -> None:
        search, mode = spec.searched(), spec.task.score.mode
        if search.scheduler == "asha":
            self._scheduler: Any = ASHAScheduler(
                time_attr=COUNT,
                metric=METRIC,
                mode=mode,
                max_t=MOST_EVALUATIONS,
                grace_period=search.grace,
                reduction_factor=search.reduction,
                stop_last_trials=False,
            )
        else:
            self._scheduler = MedianStoppingRule(
                time_attr=COUNT,
                metric=METRIC,
                mode=mode,
                grace_period=search.grace,
                min_samples_required=ENOUGH,
                hard_stop=True,
            )
        # The median rule asks who waits, to yield to them: nobody does, trials are handed out elsewhere.
        self._controller = SimpleNamespace(get_live_trials=list)
        self._trials: dict[str, Any] = {}

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """What the scheduler says."""
        verdict = self._scheduler.on_trial_result(self._controller, self._of(trial), {COUNT: evaluation, METRIC: score})
        return bool(verdict == TrialScheduler.CONTINUE)

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """A failed trial is taken out, any other counted once more with its last score, as Tune does."""
        if trial not in self._trials or score is None:
            return
        self._scheduler.on_trial_complete(self._controller, self._of(trial), {COUNT: evaluation, METRIC: score})

    def _of(self, trial: str) -> Any:
        if trial not in self._trials:
            self._trials[trial] = _Named(trial)
            self._scheduler.on_trial_add(self._controller, self._trials[trial])
        return self._trials[trial]


class _Named:
    """What the schedulers ask of a trial: a name, and to be a key."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id

    def __str__(self) -> str:
        return self.trial_id
