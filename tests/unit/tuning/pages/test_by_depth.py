"""Columns by depth, and the knee over them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from regraft.tuning.pages.by_depth import Knee, depth_columns, find_knee
from regraft.tuning.records import TrialRecord
from unit.tuning.sample_records import trial

ACCURACY = {"name": "accuracy", "mode": "max"}


def at(number: int, depth: int, score: float | None, seconds: float, **changes: Any) -> TrialRecord:
    """Return a trial of four epochs at this depth of a base with six blocks."""
    best = None if score is None else {"accuracy": score}
    return replace(trial(number, {"type": "freeze", "depth": 4}), depth=depth, best=best, seconds=seconds, **changes)


def found(trials: list[TrialRecord], rows: int = 872, **score: str) -> Knee:
    where = find_knee(depth_columns(trials, ACCURACY | score), ACCURACY | score, rows)
    assert where is not None
    return where


def test_full_is_depth_none_and_feature_extraction_all_and_lora_stands_apart() -> None:
    trials = [
        trial(1, "lora"),
        trial(2, "feature-extraction"),
        trial(3, "full"),
        trial(4, {"type": "freeze", "depth": 4}),
    ]
    found_columns = [(column.depth, column.name) for column in depth_columns(trials, ACCURACY)]
    assert found_columns == [(0, "full"), (4, "4 of 6 blocks frozen"), (6, "feature-extraction"), (None, "lora")]


def test_a_failed_trial_stands_where_it_was_written() -> None:
    failed = [
        replace(trial(number, "full"), depth=None, best=None, status="failed", overrides=overrides)
        for number, overrides in enumerate(
            [{"method.depth": 2}, {"method.depth": "50%"}, {"method": {"type": "freeze", "depth": "all"}}, {"x": 1}]
        )
    ]
    assert [(column.depth, column.others) for column in depth_columns([*failed, at(9, 4, 0.8, 5)], ACCURACY)] == [
        (2, 1),
        (3, 1),
        (4, 0),
        (6, 1),
    ]


def test_the_knee_is_the_cheapest_within_one_standard_error() -> None:
    error = math.sqrt(0.9 * 0.1 / 872)
    trials = [at(1, 0, 0.9, 90), at(2, 4, 0.9 - 0.9 * error, 30), at(3, 5, 0.9 - 1.1 * error, 10)]
    where = found(trials)
    assert (where.best.depth, where.column.depth) == (0, 4)
    assert where.noise == pytest.approx(error, rel=0.02)


def test_more_rows_leave_less_to_noise() -> None:
    trials = [at(1, 0, 0.9, 90), at(2, 4, 0.893, 30)]
    assert found(trials, 872).column.depth == 4
    assert found(trials, 20_000).column.depth == 0


def test_a_perfect_score_has_noise_too() -> None:
    assert found([at(1, 0, 1.0, 90), at(2, 4, 0.999, 30)], 100).column.depth == 4


def test_of_columns_that_cost_the_same_the_one_that_moves_less_is_the_knee() -> None:
    trials = [at(1, 0, 0.9, 30.0, trainable=100, total=100), at(2, 4, 0.9, 30.4, trainable=20, total=100)]
    assert found(trials).column.depth == 4


def test_a_stopped_trial_does_not_look_cheap() -> None:
    stopped = replace(trial(2, "full", epochs=1), seconds=10.0, status="stopped")
    cheap, dear = depth_columns([at(1, 4, 0.9, 20.0), stopped], ACCURACY)[::-1]
    assert (cheap.seconds, dear.seconds) == (20.0, 40.0)


def test_where_smaller_is_better_noise_lies_above_the_best() -> None:
    trials = [at(1, 0, 2.0, 90), at(2, 4, 2.019, 30), at(3, 5, 2.021, 10)]
    where = found(trials, mode="min")
    assert (where.best.depth, where.column.depth) == (0, 4)
    assert "1 % of the best" in where.source


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_what_is_no_number_is_no_result(score: float | None) -> None:
    trials = [at(1, 0, score, 90), at(2, 4, 0.7, 30)]
    assert found(trials).best.depth == 4
    assert find_knee(depth_columns(trials[:1], ACCURACY), ACCURACY, 872) is None


def test_of_equal_columns_the_best_is_that_of_the_earlier_trial() -> None:
    assert found([at(7, 0, 0.9, 90), at(3, 4, 0.9, 90)]).best.depth == 4


def test_trials_that_were_stopped_are_not_compared_with_those_that_ended() -> None:
    trials = [
        at(1, 0, 0.90, 90),
        at(2, 4, 0.95, 30, status="stopped"),
        at(3, 5, 0.80, 10),
        at(4, 5, 0.99, 10, status="stopped"),
    ]
    columns = {column.depth: column for column in depth_columns(trials, ACCURACY)}
    assert columns[4].best is None and [one.number for one in columns[4].unfinished] == [2]
    assert columns[5].best == 0.80 and columns[5].count == 2
    where = found(trials)
    assert (where.best.depth, where.column.depth) == (0, 0)


def test_each_base_has_its_own_depths_and_the_knee_is_among_all() -> None:
    def on(base: str, blocks: int, one: TrialRecord) -> TrialRecord:
        return replace(one, blocks=blocks, overrides={**one.overrides, "base": base})

    trials = [
        on("/bases/small", 6, at(1, 4, 0.895, 10)),
        on("/bases/large", 24, at(2, 4, 0.9, 90)),
        on("/bases/large", 24, at(3, 24, 0.7, 40)),
    ]
    assert [column.name for column in depth_columns(trials, ACCURACY)] == [
        "4 of 6 blocks frozen of small",
        "4 of 24 blocks frozen of large",
        "all 24 blocks frozen of large",
    ]
    where = found(trials)
    assert (where.best.base, where.column.base) == ("large", "small")


def test_no_knee_without_a_trial_that_ended() -> None:
    trials = [at(1, 0, 0.9, 90, status="stopped"), at(2, 4, 0.8, 30, status="failed")]
    assert find_knee(depth_columns(trials, ACCURACY), ACCURACY, 872) is None
