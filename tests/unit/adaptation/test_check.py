"""The check by labelled target rows: its interval covers the truth, and its verdict follows the interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.adaptation.check import check, paired_difference
from regraft.errors import RequestError

DRAWS = 200


@pytest.mark.parametrize("rows", [32, 200])
@pytest.mark.parametrize(
    ("better", "worse"), [(0.0, 0.0), (0.02, 0.02), (0.1, 0.05), (0.3, 0.05), (0.05, 0.2), (0.5, 0.3), (0.15, 0.0)]
)
def test_its_interval_covers_the_truth_in_nine_of_ten_draws(rows: int, better: float, worse: float) -> None:
    random = np.random.default_rng(rows)
    counts = random.multinomial(rows, [better, worse, 1 - better - worse], size=DRAWS)
    drawn = [(int(one), int(two)) for one, two, _ in counts]
    bounds = {pair: paired_difference(*pair, rows) for pair in set(drawn)}
    covered = sum(bounds[pair][0] <= better - worse <= bounds[pair][1] for pair in drawn)
    assert covered >= 0.9 * DRAWS


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.data())
def test_the_interval_holds_its_estimate_and_mirrors(rows: int, data: st.DataObject) -> None:
    better = data.draw(st.integers(0, rows))
    worse = data.draw(st.integers(0, rows - better))
    low, high = paired_difference(better, worse, rows)
    assert -1 <= low <= (better - worse) / rows + 1e-12 and (better - worse) / rows - 1e-12 <= high <= 1
    mirrored = paired_difference(worse, better, rows)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


def test_the_interval_is_that_of_tango() -> None:
    # Tango (1998), tables of paired shares: 9 and 7 of 32, and 0 and 0 of 10.
    assert paired_difference(0, 0, 10) == pytest.approx((-0.2775, 0.2775), abs=1e-3)


@pytest.mark.parametrize(("better", "worse", "verdict"), [(12, 0, "held"), (0, 12, "worse"), (2, 2, "cannot tell")])
def test_the_verdict_follows_the_interval(better: int, worse: int, verdict: str) -> None:
    labels = torch.zeros(40, dtype=torch.long)
    chosen, other = torch.zeros(40, dtype=torch.long), torch.zeros(40, dtype=torch.long)
    other[:better] = 1
    chosen[better : better + worse] = 1
    found = check(chosen, other, labels)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(found.chosen - found.source_only)


def test_one_row_cannot_tell_and_none_is_refused() -> None:
    one = torch.zeros(1, dtype=torch.long)
    assert check(one, one + 1, one).verdict == "cannot tell"
    with pytest.raises(RequestError, match="--check: a check needs labelled rows"):
        check(one[:0], one[:0], one[:0])
