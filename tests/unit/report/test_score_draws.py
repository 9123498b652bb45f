"""Scores of several models on the same resamples: what is paired, and what holds for all pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from regraft.contracts import Record
from regraft.report.intervals import Bootstrap
from regraft.report.score_draws import MANY, ScoreDraws, draw_scores


def accuracy(records: Sequence[Record]) -> Mapping[str, float]:
    return {"accuracy": float(np.mean([record["correct"] for record in records]))}


def squared(records: Sequence[Record]) -> Mapping[str, float]:
    return {"accuracy": float(np.mean([record["correct"] for record in records])) ** 2}


def records(share: float, rows: int = 120, seed: int = 0) -> list[Record]:
    return [{"correct": int(value)} for value in np.random.default_rng(seed).random(rows) < share]


def test_a_mean_over_rows_has_the_intervals_that_its_metrics_give() -> None:
    models = [(accuracy, records(0.9)), (accuracy, records(0.7, seed=1))]
    fast = draw_scores(models, "accuracy")
    assert len(fast.draws) == MANY
    slow = draw_scores([(squared, found) for _, found in models], "accuracy", Bootstrap(resamples=2000))
    assert len(slow.draws) == 2000
    expected = [bound**0.5 for bound in slow.interval(0) or ()]
    assert list(fast.interval(0) or ()) == pytest.approx(expected, abs=0.02)


def test_a_model_beside_itself_has_no_difference() -> None:
    found = draw_scores([(accuracy, records(0.8)), (accuracy, records(0.8))], "accuracy")
    assert found.difference(0, 1) == (0.0, 0.0)
    assert found.simultaneous()[1] == (0.0, 0.0)


def test_one_pair_needs_no_wider_interval_and_many_pairs_do() -> None:
    others = [(accuracy, records(0.75, seed=seed)) for seed in range(1, 9)]
    found = draw_scores([(accuracy, records(0.9)), *others], "accuracy")
    alone = draw_scores([(accuracy, records(0.9)), others[0]], "accuracy")
    assert alone.simultaneous()[1] == pytest.approx(alone.difference(0, 1), abs=0.015)
    for model in range(1, 9):
        together, single = found.simultaneous()[model], found.difference(0, model)
        assert together is not None and single is not None
        assert together[1] - together[0] > 1.2 * (single[1] - single[0])


def test_all_pairs_hold_together_as_often_as_is_said() -> None:
    draw, covered = np.random.default_rng(7), 0
    for _ in range(100):
        right = draw.random((5, 150)) < 0.8  # five models that are equally good
        means = right.astype(float)
        resampled = np.stack([draw.multinomial(150, np.full(150, 1 / 150)) @ means.T / 150 for _ in range(100)])
        bounds = ScoreDraws(means.mean(axis=1), resampled).simultaneous()
        covered += all(one is not None and one[0] <= 0 <= one[1] for one in bounds[1:])
    assert 0.86 <= covered / 100 <= 0.99


@pytest.mark.parametrize(("rows", "resamples", "why"), [(1, 100, "two rows"), (10, 0, "None were requested")])
def test_without_resamples_there_is_no_interval(rows: int, resamples: int, why: str) -> None:
    found = draw_scores(
        [(accuracy, records(0.5, rows)), (accuracy, records(0.5, rows))], "accuracy", Bootstrap(resamples)
    )
    assert why in found.note
    assert (found.interval(0), found.difference(0, 1), found.simultaneous()) == (None, None, [None, None])
