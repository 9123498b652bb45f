"""A verdict orders bases, calls ties, and says so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.errors import RequestError
from regraft.selection.verdict import Contender, HalfLearned, paired_difference, verdict


def right(share: float, rows: int = 400, seed: int = 0) -> NDArray[np.float64]:
    """Rows of which a share is right."""
    return (np.random.default_rng(seed).random(rows) < share).astype(np.float64)


def test_within_noise_the_cheaper_comes_first_and_the_sentence_says_by_how_much() -> None:
    rows = right(0.8)
    near = rows.copy()
    near[:3] = 0
    found = verdict(
        [Contender("a", 8.0, rows), Contender("b", 2.0, near), Contender("c", 1.0, right(0.3, seed=1))],
        np.random.default_rng(0),
    )
    assert [one.name for one in found.standings] == ["b", "a", "c"]
    assert [one.tied for one in found.standings] == [True, True, False]
    assert (found.best, found.first) == ("a", "b")
    assert found.words == "a; b is within noise and four times cheaper"


def test_a_clear_lead_is_stated_with_its_interval() -> None:
    found = verdict([Contender("a", 1, right(0.5)), Contender("b", 9, right(0.9, seed=1))], np.random.default_rng(0))
    assert found.first == found.best == "b"
    assert found.words.startswith("b, ahead of a by 0.")
    lead = found.standings[1].to_best
    assert lead.low < lead.difference < lead.high < 0


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ((1, 1.1), "costs as much"),
        ((1, 3), "three times dearer"),
        ((5, 2), "2.5 times cheaper"),
        ((1, 40), "40 times dearer"),
        ((4, 0), "much cheaper"),
        ((0, 0), "costs as much"),
    ],
)
def test_costs_are_said_in_words(costs: tuple[float, float], words: str) -> None:
    rows = right(0.8)
    worse = rows.copy()
    worse[np.flatnonzero(rows)[0]] = 0
    found = verdict([Contender("a", costs[0], rows), Contender("b", costs[1], worse)], np.random.default_rng(0))
    assert found.words == f"a; b is within noise and {words}"


def test_equal_bases_are_tied_and_one_base_is_its_own_verdict() -> None:
    rows = right(0.8)
    both = verdict([Contender("a", 2, rows), Contender("b", 1, rows)], np.random.default_rng(0))
    assert (both.best, both.first) == ("b", "b") and all(one.tied for one in both.standings)
    assert verdict([Contender("a", 2, rows)], np.random.default_rng(0)).words == "a"


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


def test_scores_of_other_rows_and_two_bases_of_one_name_are_refused() -> None:
    for wrong in (
        [],
        [Contender("a", 1, right(0.5)), Contender("a", 1, right(0.5))],
        [Contender("a", 1, right(0.5, 10)), Contender("b", 1, right(0.5, 9))],
    ):
        with pytest.raises(RequestError):
            verdict(wrong, np.random.default_rng(0))
    with pytest.raises(RequestError, match="same rows"):
        verdict([Contender("a", 1, right(0.5, 10))], np.random.default_rng(0), groups=np.arange(9))


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
    clear = [Contender("a", 1, right(0.9)), Contender("b", 1, right(0.7, seed=1))]
    shaky = [
        Contender("a", 1, clear[0].by_row, right(0.9)),
        Contender("b", 1, clear[1].by_row, right(0.55, seed=1)),
    ]
    assert not verdict(clear, np.random.default_rng(0)).standings[1].tied
    assert not verdict(shaky, np.random.default_rng(0)).standings[1].tied
    assert verdict(shaky, np.random.default_rng(0), share=0.1).standings[1].tied
