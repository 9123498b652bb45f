"""Draw the points of a search with Optuna's TPE, by Ray Tune's `OptunaSearch`."""

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


class OptunaSampler:
    """TPE (Bergstra et al., 2011) of Optuna, by Ray Tune's `OptunaSearch`.

    Values that the spec lists are passed to Optuna by index, so that they may be anything (a method with its fields).
    Results of earlier attempts are added as evaluated points. Their number changes the seed: with the same seed, Optuna
    would draw those points again.
    """

    def __init__(self, spec: RunSpec) -> None:
        search = spec.searched()
        # Otherwise Optuna logs every trial, and warns that a part of its own interface is experimental.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)
        self._space, self._seed, self._mode = search.space, search.seed, spec.task.score.mode
        self._earlier: list[tuple[dict[str, Any], float | None]] = []
        self._search: Any = None

    def point(self, turn: int) -> Mapping[str, Any] | None:
        """Return the point that Optuna suggests."""
        suggested = self._searcher().suggest(str(turn))
        return {name: self._value(name, suggested[name]) for name in self._space}

    def learn(self, turn: int, drawn: Mapping[str, Any], score: float | None) -> None:
        """Report the score of a point to Optuna; None for a failed trial.

        A negative `turn` means a point of an earlier attempt.
        """
        if turn >= 0:
            self._searcher().on_trial_complete(
                str(turn), None if score is None else {METRIC: score}, error=score is None
            )
            return
        point = {name: self._index(name, drawn[name]) for name in self._space if name in drawn}
        complete = len(point) == len(self._space)
        self._earlier.append((point, score if complete else None))

    def _searcher(self) -> Any:
        """Return the searcher; it is made at first use, when all earlier points are known."""
        if self._search is None:
            space = {name: _domain(draw) for name, draw in self._space.items()}
            seed = (self._seed + 1_000_003 * len(self._earlier)) % 2**32
            self._search = OptunaSearch(
                space=OptunaSearch.convert_search_space(space), metric=METRIC, mode=self._mode, seed=seed
            )
            for point, score in self._earlier:
                if score is not None:
                    self._search.add_evaluated_point(point, score)
        return self._search

    def _value(self, name: str, suggested: Any) -> Any:
        """Return the value that Optuna's suggestion means: a listed value is suggested by index."""
        values = self._space[name].values
        return suggested if values is None else values[int(suggested)]

    def _index(self, name: str, value: Any) -> Any:
        """Return the value as Optuna knows it: the index of a listed value."""
        values = self._space[name].values
        return value if values is None else [_plain(item) for item in values].index(_plain(value))


def _domain(draw: Draw) -> Any:
    """Convert a draw to one of Tune's domains; listed values become their indices."""
    if draw.values is not None:
        return tune.choice(list(range(len(draw.values))))
    if draw.randint is not None:
        return tune.randint(draw.randint[0], draw.randint[1] + 1)
    if draw.loguniform is not None:
        return tune.loguniform(*draw.loguniform)
    assert draw.uniform is not None
    return tune.uniform(*draw.uniform)


def _plain(value: Any) -> Any:
    """Return a value as JSON would read it back: tuples become lists, and keys strings."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
