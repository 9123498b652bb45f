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

    Values that the spec lists one by one are passed as their positions, so that they may be anything (a method with its
    fields). Results of earlier attempts are added as evaluated points. The draws after them have a seed of their own,
    or they would repeat those points.
    """

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        # Optuna logs every trial, and warns that a part of its own interface is experimental.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        self._space, self._seed, self._mode = search.space, search.seed, spec.task.score.mode
        self._known: list[tuple[dict[str, Any], float | None]] = []
        self._made: Any = None

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """Return the point that Optuna suggests."""
        suggested = self._searcher().suggest(str(turn))
        return {name: self._value(name, suggested[name]) for name in self._space}

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Report the score of a point to Optuna; None for a failed trial."""
        if turn >= 0:
            self._searcher().on_trial_complete(
                str(turn), None if score is None else {METRIC: score}, error=score is None
            )
            return
        point = {name: self._position(name, drawn[name]) for name in self._space if name in drawn}
        complete = len(point) == len(self._space)
        self._known.append((point, score if complete else None))

    def _searcher(self) -> Any:
        """Return the searcher, made at first use, when the number of earlier points is known."""
        if self._made is None:
            space = {name: _domain(draw) for name, draw in self._space.items()}
            seed = (self._seed + 1_000_003 * len(self._known)) % 2**32
            self._made = OptunaSearch(
                space=OptunaSearch.convert_search_space(space), metric=METRIC, mode=self._mode, seed=seed
            )
            for point, score in self._known:
                if score is not None:
                    self._made.add_evaluated_point(point, score)
        return self._made

    def _value(self, name: str, suggested: Any) -> Any:
        values = self._space[name].values
        return suggested if values is None else values[int(suggested)]

    def _position(self, name: str, value: Any) -> Any:
        values = self._space[name].values
        return value if values is None else [_plain(item) for item in values].index(_plain(value))


def _domain(draw: Draw) -> Any:
    """Return a draw as Tune's domain; listed values become their positions."""
    if draw.values is not None:
        return tune.choice(list(range(len(draw.values))))
    if draw.randint is not None:
        return tune.randint(draw.randint[0], draw.randint[1] + 1)
    if draw.loguniform is not None:
        return tune.loguniform(*draw.loguniform)
    assert draw.uniform is not None
    return tune.uniform(*draw.uniform)


def _plain(value: Any) -> Any:
    """Return a value as it comes back from a record: JSON has no tuples."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
