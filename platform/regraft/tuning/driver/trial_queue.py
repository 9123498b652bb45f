"""The order of trials: those that wait to run again, then new ones of the study, packed into batches for a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from regraft.spec.search_bases import base_of_trial
from regraft.tuning.protocol import Trial
from regraft.tuning.space import without_search
from regraft.tuning.study import Study

TOGETHER = 64
"""Limit of trials that train only a head and run together."""
TOGETHER_LEARNING = 8
"""The same for a sampler that learns from results, which it gets only after a batch."""

NewTrial = Callable[[Trial, Mapping[str, Any]], None]


class TrialQueue:
    """Trials that no worker has. Not thread-safe: the owner holds a lock."""

    def __init__(self, spec: RunSpec, study: Study, on_new: NewTrial) -> None:
        """`on_new` is called with each new trial of the study and its drawn values."""
        self._spec, self._study, self._on_new = without_search(spec), study, on_new
        self._most = TOGETHER_LEARNING if spec.searched().sampler == "optuna" else TOGETHER
        self._waiting: list[tuple[Trial, bool]] = []
        self._apart: set[str] = set()

    def put(self, trial: Trial, *, apart: bool) -> None:
        """Append a trial that is to run again; with `apart` it is never again packed with others."""
        if apart:
            self._apart.add(trial.id)
        self._waiting.append((trial, self._packs(trial)))

    def batch(self) -> list[Trial]:
        """Remove and return the next trial; one that trains only a head comes with others that do, of its base."""
        first = self._next()
        if first is None:
            return []
        trial, packs = first
        if not packs:
            return [trial]
        batch, others = [trial], []
        for _ in range(self._most - 1):
            following = self._next()
            if following is None:
                break
            if following[1] and base_of_trial(following[0].overrides) == base_of_trial(trial.overrides):
                batch.append(following[0])
            else:
                others.append(following)
        self._waiting[:0] = others
        return batch

    def _next(self) -> tuple[Trial, bool] | None:
        if self._waiting:
            return self._waiting.pop(0)
        suggested = self._study.suggest()
        if suggested is None:
            return None
        trial, drawn = suggested
        self._on_new(trial, drawn)
        return trial, self._packs(trial)

    def _packs(self, trial: Trial) -> bool:
        """Return whether the trial may train together with others on the same features."""
        if trial.id in self._apart:
            return False
        try:
            method = trial.spec(self._spec).method
        except RequestError:
            return False
        return method.serves == "head" and not method.closed_form
