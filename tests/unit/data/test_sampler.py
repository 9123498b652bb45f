"""The sampler: each row once an epoch with any number of workers, and the same order in every version."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.sampler import batches, batches_per_epoch, episode, position, share, shuffled, total_steps

QUICK = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**63 - 1)


@QUICK
@given(SEEDS, st.integers(0, 50), st.integers(1, 700), st.integers(1, 64), st.integers(1, 5), st.integers(1, 4))
@pytest.mark.parametrize("bucketing", [False, True])
def test_each_row_once_an_epoch_whatever_the_workers(
    bucketing: bool, seed: int, epoch: int, rows: int, batch_size: int, world: int, accumulation: int
) -> None:
    lengths = np.random.default_rng(rows).integers(1, 100, rows)
    whole = batches(seed, epoch, lengths, batch_size, bucketing=bucketing)
    assert len(whole) == batches_per_epoch(rows, batch_size)
    seen: list[int] = []
    for batch in whole:
        parts = [share(batch, rank, world, accumulation) for rank in range(world)]
        assert {len(micro) for micro in parts} == {accumulation}
        seen.extend(index for micro in parts for piece in micro for index in piece.tolist())
    assert sorted(seen) == list(range(rows))


@QUICK
@given(SEEDS, st.integers(0, 50), st.integers(1, 3000), st.integers(1, 64))
@pytest.mark.parametrize("bucketing", [False, True])
def test_only_one_batch_is_short(bucketing: bool, seed: int, epoch: int, rows: int, batch_size: int) -> None:
    sizes = [len(batch) for batch in batches(seed, epoch, np.arange(rows), batch_size, bucketing=bucketing)]
    short = [size for size in sizes if size != batch_size]
    assert short == ([rows % batch_size] if rows % batch_size else [])


@QUICK
@given(SEEDS, st.integers(0, 9), st.integers(1, 300), st.integers(1, 20))
def test_same_arguments_give_the_same_batches(seed: int, epoch: int, rows: int, batch_size: int) -> None:
    lengths = np.arange(rows)[::-1].copy()
    np.random.seed(epoch)
    first = batches(seed, epoch, lengths, batch_size, bucketing=True)
    np.random.seed(epoch + 1)
    again = batches(seed, epoch, lengths.copy(), batch_size, bucketing=True)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_order_is_pinned_for_ever() -> None:
    """A change of this order would make every stored run resume on other rows."""
    assert shuffled(8, "rows", 0, 0).tolist() == [3, 1, 4, 7, 6, 5, 2, 0]
    text = repr([batch.tolist() for batch in batches(7, 3, np.arange(1000) % 17, 16, bucketing=True)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4a58ad87e8489bd2"


@pytest.mark.parametrize("bucketing", [False, True])
def test_order_differs_by_epoch_and_by_seed(bucketing: bool) -> None:
    lengths = np.arange(200) % 7
    orders = [
        np.concatenate(batches(seed, epoch, lengths, 8, bucketing=bucketing)).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert not np.array_equal(shuffled(50, "rows", 1, 11), shuffled(50, "rows", 11, 1))


def test_bucketing_reduces_padding_and_keeps_batches_shuffled() -> None:
    lengths = np.random.default_rng(0).lognormal(3, 0.8, 8000).astype(np.int64) + 1

    def padded(whole: list[np.typing.NDArray[np.int64]]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in whole)

    plain, bucketed = batches(0, 0, lengths, 32), batches(0, 0, lengths, 32, bucketing=True)
    assert padded(bucketed) < 1.15 * int(lengths.sum()) < 0.6 * padded(plain)
    means = [float(lengths[batch].mean()) for batch in bucketed]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_ranks_share_long_and_short_rows_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 4000)
    for batch in batches(0, 0, lengths, 32, bucketing=True)[:20]:
        tokens = [int(lengths[share(batch, rank, 2)[0]].sum()) for rank in range(2)]
        assert max(tokens) < 1.2 * min(tokens)


def test_micro_batches_are_nearly_equal_and_may_be_empty() -> None:
    assert [len(piece) for piece in share(np.arange(11), 0, 2, 4)] == [2, 2, 1, 1]
    assert [len(piece) for piece in share(np.arange(1), 1, 2, 2)] == [0, 0]


def test_bucketing_without_lengths_is_plain_shuffling() -> None:
    plain, asked = batches(0, 0, 100, 8), batches(0, 0, 100, 8, bucketing=True)
    assert all(np.array_equal(a, b) for a, b in zip(plain, asked, strict=True))


def test_steps_and_positions_agree_with_the_batches() -> None:
    per_epoch = batches_per_epoch(70, 32)
    assert (per_epoch, total_steps(70, 32, 4), total_steps(70, 32, 4, steps=5)) == (3, 12, 5)
    assert [position(step, per_epoch) for step in (0, 2, 3, 11)] == [(0, 0), (0, 2), (1, 0), (3, 2)]


@QUICK
@given(SEEDS, st.integers(0, 10_000), st.lists(st.integers(3, 20), min_size=2, max_size=12), st.integers(1, 3))
def test_an_episode_has_as_many_different_rows_of_as_many_classes(
    seed: int, step: int, sizes: list[int], rows_each: int
) -> None:
    ends = np.cumsum(sizes)
    classes = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    way = 1 + step % len(classes)
    drawn = episode(seed, step, classes, way=way, rows_each=rows_each)
    assert len(set(drawn.tolist())) == len(drawn) == way * rows_each
    of_class = np.searchsorted(ends, drawn, side="right").reshape(way, rows_each)
    assert (of_class == of_class[:, :1]).all() and len(set(of_class[:, 0].tolist())) == way
    assert np.array_equal(drawn, episode(seed, step, [rows.copy() for rows in classes], way=way, rows_each=rows_each))


def test_episodes_are_pinned_for_ever_and_draw_every_row_alike() -> None:
    classes = [np.arange(start, start + 20) for start in range(0, 200, 20)]
    assert episode(0, 0, classes, way=2, rows_each=3).tolist() == [92, 96, 87, 164, 176, 170]
    count = np.bincount(
        np.concatenate([episode(1, step, classes, way=5, rows_each=4) for step in range(2000)]), minlength=200
    )
    assert abs(count - 200).max() < 5 * np.sqrt(200)
    with pytest.raises(ValueError, match="way is 11"):
        episode(0, 0, classes, way=11, rows_each=1)
    with pytest.raises(ValueError, match="has 20 rows"):
        episode(0, 0, classes, way=1, rows_each=21)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        batches(0, 0, 10, 0)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        share(np.arange(4), 2, 2)
