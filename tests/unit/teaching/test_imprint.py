"""The row and the bias of a new class: what it takes of the classes of before, and no more than it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mstats
from torch import Tensor

from regraft.data.kept_features import KeptFeatures
from regraft.errors import RequestError
from regraft.teaching.imprint import MOST, HeadWeights, Imprint, imprinted, quantile


def drawn(
    seed: int, rows: int, *, apart: float = 1.0, classes: int = 4, width: int = 8
) -> tuple[HeadWeights, KeptFeatures, Tensor]:
    """Return a head, rows of its classes and ten examples of another one."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(classes + 1, width, generator=draw) * apart
    numbers = torch.arange(rows) % classes
    features = means[numbers] + torch.randn(rows, width, generator=draw)
    examples = means[classes] + torch.randn(10, width, generator=draw)
    head = HeadWeights(means[:classes].double(), -means[:classes].square().sum(dim=1).double() / 2)
    return head, KeptFeatures(features, numbers), examples


def moved(head: HeadWeights, kept: KeptFeatures, made: Imprint) -> int:
    after = head.with_class(made.row, made.bias).logits(kept.features)
    return int((after.argmax(dim=1) == len(head.bias)).sum())


@pytest.mark.parametrize("rows", [20, 33, 34, 100, 700])
@pytest.mark.parametrize("seed", range(4))
def test_at_most_three_percent_of_the_kept_rows_move(seed: int, rows: int) -> None:
    head, kept, examples = drawn(seed, rows, apart=0.3)
    made = imprinted(head, kept, examples)
    assert made.moved == moved(head, kept, made) <= MOST * rows
    assert made.moved == 0 or rows > 33


@pytest.mark.parametrize("seed", range(4))
def test_examples_that_lie_apart_take_no_row_and_are_all_recognised(seed: int) -> None:
    head, kept, examples = drawn(seed, 200, apart=8.0)
    made = imprinted(head, kept, examples)
    assert made.moved == 0 and made.recognised == len(examples)
    after = head.with_class(made.row, made.bias).logits(examples)
    assert bool((after.argmax(dim=1) == len(head.bias)).all())


def test_logits_of_the_classes_of_before_stay_bit_for_bit() -> None:
    head, kept, examples = drawn(0, 100)
    made = imprinted(head, kept, examples)
    after = head.with_class(made.row, made.bias)
    assert torch.equal(after.weight[:-1], head.weight) and torch.equal(after.bias[:-1], head.bias)


def test_the_row_is_as_far_from_the_middle_as_the_others_are_on_average() -> None:
    head, kept, examples = drawn(1, 100)
    middle = head.weight.mean(dim=0)
    made = imprinted(head, kept, examples)
    lengths = (head.weight - middle).norm(dim=1)
    assert float((made.row - middle).norm()) == pytest.approx(float(lengths.mean()))


def test_what_all_rows_of_the_head_share_changes_no_answer() -> None:
    head, kept, examples = drawn(2, 150)
    shifted = HeadWeights(head.weight + 3 * torch.ones(8, dtype=torch.float64), head.bias)
    one, other = imprinted(head, kept, examples), imprinted(shifted, kept, examples)
    assert moved(head, kept, one) == moved(shifted, kept, other)
    assert other.bias == pytest.approx(one.bias)


def test_the_order_of_rows_and_of_examples_does_not_matter() -> None:
    head, kept, examples = drawn(3, 120)
    turned = KeptFeatures(kept.features.flip(0), kept.classes.flip(0))
    one, other = imprinted(head, kept, examples), imprinted(head, turned, examples.flip(0))
    assert other.bias == pytest.approx(one.bias) and other.moved == one.moved
    torch.testing.assert_close(other.row, one.row)


def test_rows_of_the_new_class_do_not_count_as_rows_of_before() -> None:
    head, kept, examples = drawn(4, 120)
    more = KeptFeatures(torch.cat([kept.features, examples]), torch.cat([kept.classes, torch.full((10,), 4)]))
    one, other = imprinted(head, kept, examples), imprinted(head, more, examples)
    assert (other.bias, other.moved) == (one.bias, one.moved)


def test_one_example_is_enough_and_recognises_itself_by_no_other() -> None:
    head, kept, examples = drawn(5, 100)
    assert imprinted(head, kept, examples[:1]).recognised is None


def test_examples_like_all_other_rows_are_refused() -> None:
    head, kept, _ = drawn(6, 100)
    means = torch.stack([kept.features[kept.classes == number].mean(dim=0) for number in range(4)])
    with pytest.raises(RequestError, match="like the rows of all other classes"):
        imprinted(head, KeptFeatures(means, torch.arange(4)), means.double().mean(dim=0, keepdim=True))


@pytest.mark.parametrize("rows", [40, 333])
def test_the_quantile_is_that_of_harrell_and_davis(rows: int) -> None:
    numbers = np.sort(np.random.default_rng(rows).normal(size=rows))
    for share in (0.025, 0.5):
        wanted = float(mstats.hdquantiles(numbers, prob=[share])[0])
        assert quantile(torch.from_numpy(numbers), share) == pytest.approx(wanted, abs=1e-9)
