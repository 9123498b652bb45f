"""Bootstrap intervals: the width of theory, deterministic, and absent if they would be meaningless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from regraft.report.intervals import Bootstrap, bootstrap, paired

Records = Sequence[Mapping[str, Any]]


def mean(records: Records) -> dict[str, float]:
    return {"mean": sum(record["value"] for record in records) / len(records)}


def coins(heads: int, of: int) -> list[dict[str, Any]]:
    return [{"value": float(number < heads)} for number in range(of)]


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    low, high = bootstrap(mean, coins(300, 400), Bootstrap(2000)).bounds["mean"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)


def test_the_same_records_have_the_same_interval() -> None:
    one, other = (bootstrap(mean, coins(30, 50), Bootstrap(200)) for _ in range(2))
    assert one == other and one.resamples == 200


def test_two_models_that_fail_together_are_distinguished_by_their_difference() -> None:
    """Each accuracy is uncertain by 0.04, their paired difference by much less."""
    one, other = coins(300, 400), coins(290, 400)
    apart = paired((mean, mean), (one, other), Bootstrap(1000)).bounds["mean"]
    assert 0 < apart[0] <= 10 / 400 <= apart[1] < 0.05


def test_few_resamples_give_no_interval_and_say_why() -> None:
    found = bootstrap(mean, coins(3, 10), Bootstrap(1000, budget_s=0.0))
    assert not found.bounds and "0 s, too few" in found.note


def test_a_metric_without_a_value_in_many_resamples_has_no_interval() -> None:
    def rare(records: Records) -> dict[str, float]:
        found = [record["value"] for record in records if record["value"] > 1]
        return {**mean(records), "rare": sum(found) / len(found) if found else math.nan}

    records = [*coins(10, 20), {"value": 2.0}]
    assert set(bootstrap(rare, records, Bootstrap(200)).bounds) == {"mean"}


def test_one_row_has_no_interval() -> None:
    assert "two rows" in bootstrap(mean, coins(1, 1)).note
