"""Optuna's TPE through Ray Tune's searcher, over plain records."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from regraft.spec.run import RunSpec
from regraft.spec.search import Draw

METRIC = "score"


class OptunaPoints:
    """TPE (Bergstra et al., 2011) by Optuna, through Tune's searcher.

    Values that were written one by one are told apart by their place, so that they may be anything (a method with its
    fields). What earlier attempts found is handed over as evaluated points; the draws that come then have a seed of
    their own, or they would begin with the points that are there.
    """

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        # Optuna tells every trial, and warns that a part of its own interface is experimental.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        self._space, self._seed, self._mode = search.space, search.seed, spec.task.score.mode
        self._known: list[tuple[dict[str, Any], float | None]] = []
        self._made: Any = None

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """What Optuna suggests."""
        places = self._searcher().suggest(str(turn))
        return {name: self._value(name, places[name]) for name in self._space}

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Tell Optuna what a point came to."""
        if turn >= 0:
            self._searcher().on_trial_complete(
                str(turn), None if score is None else {METRIC: score}, error=score is None
            )
            return
        places = {name: self._place(name, drawn[name]) for name in self._space if name in drawn}
        if len(places) < len(self._space) or score is None:
            self._known.append((places, None))
            return
        self._known.append((places, score))

    def _searcher(self) -> Any:
        """Made at first use, when it is known how much went before."""
        if self._made is None:
            space = {name: _domain(draw) for name, draw in self._space.items()}
            seed = (self._seed + 1_000_003 * len(self._known)) % 2**32
            self._made = OptunaSearch(
                space=OptunaSearch.convert_search_space(space), metric=METRIC, mode=self._mode, seed=seed
            )
            for places, score in self._known:
                if score is not None:
                    self._made.add_evaluated_point(places, score)
        return self._made

    def _value(self, name: str, place: Any) -> Any:
        values = self._space[name].values
        return place if values is None else values[int(place)]

    def _place(self, name: str, value: Any) -> Any:
        values = self._space[name].values
        return value if values is None else [_plain(item) for item in values].index(_plain(value))


def _domain(draw: Draw) -> Any:
    """A draw as Tune writes it; of written values their places."""
    if draw.values is not None:
        return tune.choice(list(range(len(draw.values))))
    if draw.randint is not None:
        return tune.randint(draw.randint[0], draw.randint[1] + 1)
    if draw.loguniform is not None:
        return tune.loguniform(*draw.loguniform)
    assert draw.uniform is not None
    return tune.uniform(*draw.uniform)


def _plain(value: Any) -> Any:
    """A written value as it comes back from a record: JSON knows no tuples."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
