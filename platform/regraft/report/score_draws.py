"""The score of several models on the same resampled rows: intervals of each, of differences, and of all at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Progress, Record, Resampled
from regraft.report.intervals import CONFIDENCE, DEFAULT, MAX_UNDEFINED, MIN_RESAMPLES, Bootstrap, Metrics

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
MANY = 10_000
"""Resamples where a score is a mean over rows, which costs little."""
_SAME = 1e-9
"""Largest difference of a score from the mean over its rows."""


@dataclass(frozen=True)
class ScoreDraws:
    """Scores of models on all rows, and on the same resamples of them."""

    values: Floats
    """(models,)"""
    draws: Floats
    """(resamples, models), NaN where a resample has no score; without resamples there are no intervals."""
    note: str = ""
    """Why there are no intervals, or fewer resamples than requested."""

    def interval(self, model: int) -> Bounds | None:
        """Return the 95 % interval of a model's score; None where it is not known."""
        return _percentiles(self.draws[:, model])

    def difference(self, model: int, other: int) -> Bounds | None:
        """Return the 95 % interval of one model's score minus another's, by itself."""
        return _percentiles(self.draws[:, model] - self.draws[:, other])

    def simultaneous(self, first: int = 0) -> list[Bounds | None]:
        """Return the interval of the first model's score minus each model's; all hold together in 95 % of samples.

        By the largest studentised difference of each resample (Westfall and Young, 1993): the models share their rows,
        which Holm's and Bonferroni's corrections do not use. The entry of the first model is None.
        """
        models = len(self.values)
        others = [model for model in range(models) if model != first]
        found: list[Bounds | None] = [None] * models
        known = self.draws[np.isfinite(self.draws).all(axis=1)]
        if not others or not _enough(len(known), len(self.draws)):
            return found
        centre = self.values[first] - self.values[others]
        deviations = (known[:, [first]] - known[:, others]) - centre
        spread = deviations.std(axis=0)
        scaled = np.abs(deviations) / np.where(spread > 0, spread, np.inf)
        width = float(np.quantile(scaled.max(axis=1), CONFIDENCE))
        for at, model in enumerate(others):
            half = width * float(spread[at])
            found[model] = (float(centre[at]) - half, float(centre[at]) + half)
        return found


def draw_scores(
    models: Sequence[tuple[Metrics, Sequence[Record]]],
    score: str,
    options: Bootstrap = DEFAULT,
    *,
    progress: Progress | None = None,
) -> ScoreDraws:
    """Compute the score of models on resamples of their rows; the records of all models are of the same rows, in order.

    A score that is the mean of `correct` over rows is resampled without the task's metrics, and more often.
    """
    rows = len(models[0][1])
    values = np.array([metrics(records)[score] for metrics, records in models], np.float64)
    if rows < 2 or options.resamples < 1:
        note = "An interval needs at least two rows" if rows < 2 else "None were requested"
        return ScoreDraws(values, np.zeros((0, len(models))), note)
    means = _means(models, values)
    draws = _general(models, score, options, progress) if means is None else _mean_draws(means, options.seed)
    wanted = options.resamples if means is None else MANY
    if len(draws) < min(MIN_RESAMPLES, wanted):
        note = f"Only {len(draws)} resamples could be drawn in {options.budget_s:.0f} s: allow more seconds"
        return ScoreDraws(values, draws[:0], note)
    fewer = f"{len(draws):,} of {wanted:,} resamples could be drawn in {options.budget_s:.0f} s"
    return ScoreDraws(values, draws, fewer if len(draws) < wanted else "")


def _means(models: Sequence[tuple[Metrics, Sequence[Record]]], values: Floats) -> Floats | None:
    """Return whether each model is right on each row, (models, rows), where the score is their mean; else None."""
    if not all("correct" in records[0] for _, records in models):
        return None
    right = np.array([[float(record["correct"]) for record in records] for _, records in models])
    return right if bool(np.allclose(right.mean(axis=1), values, rtol=0, atol=_SAME)) else None


def _mean_draws(means: Floats, seed: int) -> Floats:
    """Return the mean of each model over resampled rows, (resamples, models).

    Rows on which the same models are right are alike, so that their counts are drawn and not the rows.
    """
    draw, rows = np.random.default_rng(seed), means.shape[1]
    patterns, counts = np.unique(means.T, axis=0, return_counts=True)
    return np.asarray(draw.multinomial(rows, counts / rows, size=MANY) @ patterns / rows)


def _general(
    models: Sequence[tuple[Metrics, Sequence[Record]]], score: str, options: Bootstrap, progress: Progress | None
) -> Floats:
    draw, began, rows = np.random.default_rng(options.seed), time.monotonic(), len(models[0][1])
    found: list[list[float]] = []
    while len(found) < options.resamples and time.monotonic() - began < options.budget_s:
        chosen = draw.integers(0, rows, rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class without rows in a resample would warn each time
            measured: list[Mapping[str, float]] = [
                metrics([records[row] for row in chosen]) for metrics, records in models
            ]
        found.append([float(each[score]) for each in measured])
        if progress:
            progress(Resampled(len(found), options.resamples))
    return np.array(found, np.float64).reshape(len(found), len(models))


def _percentiles(values: Floats) -> Bounds | None:
    known = values[np.isfinite(values)]
    if not _enough(len(known), len(values)):
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _enough(known: int, drawn: int) -> bool:
    return drawn > 0 and known >= (1 - MAX_UNDEFINED) * drawn
