"""The interval of a difference covers it, and is as wide as rows in common and more rows demand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.selection.paired_interval import HalfLearned, paired_difference


def right(share: float, rows: int = 400, seed: int = 0) -> NDArray[np.float64]:
    """Rows of which a share is right."""
    return (np.random.default_rng(seed).random(rows) < share).astype(np.float64)


def test_rows_of_a_group_are_drawn_together() -> None:
    draw = np.random.default_rng(0)
    first = np.repeat((draw.random(40) < 0.7).astype(float), 10)
    second = np.repeat((draw.random(40) < 0.6).astype(float), 10)
    alone = paired_difference(first, second, np.random.default_rng(0))
    together = paired_difference(first, second, np.random.default_rng(0), groups=np.repeat(np.arange(40), 10))
    assert alone.difference == together.difference
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_the_interval_covers_the_difference_of_a_population_nine_times_in_ten() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        first, second = draw.random(150) < 0.8, draw.random(150) < 0.7
        found = paired_difference(first.astype(float), second.astype(float), draw)
        held += found.low <= 0.1 <= found.high
    assert 82 <= held <= 97


def test_what_more_rows_would_change_widens_the_interval() -> None:
    first, second = right(0.8), right(0.7, seed=1)
    half = right(0.6)
    plain = paired_difference(first, second, np.random.default_rng(0))
    learned = [
        paired_difference(first, second, np.random.default_rng(0), learned=HalfLearned(half, second, share))
        for share in (1.0, 0.5, 0.1)
    ]
    widths = [one.high - one.low for one in (plain, *learned)]
    assert widths == sorted(widths) and widths[-1] > 2 * widths[1]
    assert {one.difference for one in learned} == {plain.difference}


def test_a_lead_that_more_rows_may_undo_is_a_tie() -> None:
    first, second = right(0.9), right(0.7, seed=1)
    half = HalfLearned(right(0.9), right(0.55, seed=1))
    for share, tied in ((1.0, False), (0.1, True)):
        learned = HalfLearned(half.first, half.second, share)
        found = paired_difference(second, first, np.random.default_rng(0), learned=learned)
        assert (found.high >= 0) is tied
