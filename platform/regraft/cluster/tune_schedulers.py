"""Ray Tune's searchers and schedulers over plain records: without Tune's controller, a running Ray or pickled state."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from regraft.spec.run import RunSpec
from regraft.tuning.study import GridPoints, NoStopping, RandomPoints, Sampler, StoppingRule, Study

MOST_EVALUATIONS = 100_000
"""ASHA makes rungs up to this number; every trial ends long before."""
MEDIAN_OF = 3
"""Fewest other trials for which the median rule stops one."""
TPE = "regraft.cluster.optuna_sampler"
METRIC = "score"
COUNT = "evaluation"


def tune_study(spec: RunSpec) -> Study:
    """Return the sampler and the scheduler that the spec names."""
    search = spec.searched()
    sampler: Sampler
    if search.sampler == "optuna":
        # Imported only here: it takes seconds.
        sampler = importlib.import_module(TPE).OptunaSampler(spec)
    else:
        sampler = GridPoints(spec) if search.sampler == "grid" else RandomPoints(spec)
    rule: StoppingRule = NoStopping() if search.scheduler == "none" else TuneRule(spec)
    return Study(spec, sampler, rule)


class TuneRule:
    """A scheduler of Ray Tune, which sees of a trial only its name and its scores."""

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
                min_samples_required=MEDIAN_OF,
                hard_stop=True,
            )
        # The median rule asks for waiting trials, to yield to them: there are none, the coordinator hands trials out.
        self._controller = SimpleNamespace(get_live_trials=list)
        self._trials: dict[str, Any] = {}

    def goes_on(self, trial: str, evaluation: int, score: float) -> bool:
        """Return whether the scheduler lets the trial continue."""
        decision = self._scheduler.on_trial_result(
            self._controller, self._of(trial), {COUNT: evaluation, METRIC: score}
        )
        return bool(decision == TrialScheduler.CONTINUE)

    def over(self, trial: str, evaluation: int, score: float | None) -> None:
        """Report the end of a trial: a failed one is removed, any other counts with its last score, as in Tune."""
        if trial not in self._trials or score is None:
            return
        self._scheduler.on_trial_complete(self._controller, self._of(trial), {COUNT: evaluation, METRIC: score})

    def _of(self, trial: str) -> Any:
        if trial not in self._trials:
            self._trials[trial] = _TrialName(trial)
            self._scheduler.on_trial_add(self._controller, self._trials[trial])
        return self._trials[trial]


class _TrialName:
    """The part of a Tune trial that the schedulers use: a name, and a hash."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id

    def __str__(self) -> str:
        return self.trial_id
