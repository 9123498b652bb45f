"""The diagnosis is right on made shifts, and says something clear of rows that show nothing."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import mannwhitneyu

from regraft.adaptation.shift import Shift, ShiftKind, diagnose
from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.two_sample import classifier_test, mmd_test, weighted_auc
from regraft.errors import RequestError
from unit.adaptation.made_rows import HEAD, drawn, random


def numbers(shift: Shift) -> list[float]:
    found = [value for test in (shift.classifier, shift.mmd) if test for value in (test.statistic, test.p)]
    if shift.prior is not None:
        found += [*shift.prior.target.tolist(), *shift.prior.low.tolist(), *shift.prior.high.tolist()]
    return [*found, *([] if shift.weighted_auc is None else [shift.weighted_auc])]


@pytest.mark.parametrize("seed", range(2))
def test_rows_of_one_distribution_show_no_shift(seed: int) -> None:
    found = diagnose(drawn(300, seed), drawn(250, seed + 100), HEAD, seed)
    assert found.kind is ShiftKind.NONE and "No shift" in found.reason


def test_moved_shares_are_a_label_shift() -> None:
    found = diagnose(drawn(400, 1), drawn(400, 2, (0.8, 0.15, 0.05)), HEAD)
    assert found.kind is ShiftKind.LABEL and found.prior is not None
    assert ((found.prior.low <= found.prior.target) & (found.prior.target <= found.prior.high)).all()
    assert found.weighted_auc is not None and found.classifier is not None
    assert found.weighted_auc < 0.6 < found.classifier.statistic


def test_moved_features_are_a_covariate_shift() -> None:
    target = drawn(400, 2)
    found = diagnose(drawn(400, 1), Side(target.features + 2.0 * torch.eye(6)[3]), HEAD)
    assert found.kind is ShiftKind.COVARIATE
    assert found.weighted_auc is not None and found.weighted_auc > 0.85


def test_a_change_of_spread_alone_is_seen_by_mmd() -> None:
    target = drawn(400, 2)
    found = diagnose(drawn(400, 1), Side(target.features * 2 - target.features.mean(0)), HEAD)
    assert found.kind is ShiftKind.COVARIATE and found.mmd is not None and found.mmd.p <= 0.001


def test_the_same_rows_twice_show_no_shift() -> None:
    rows = drawn(200, 1)
    found = diagnose(rows, Side(rows.features), HEAD)
    assert found.kind is ShiftKind.NONE and found.classifier is not None
    assert found.classifier.statistic == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (drawn(60, 5, (0.5, 0.5, 0.0)), Side(torch.ones(50, 6))),
        (Side(torch.ones(60, 6)), drawn(50, 1, (1.0, 0.0, 0.0))),
        (Side(torch.ones(60, 6), torch.zeros(60)), Side(torch.zeros(50, 6))),
        (drawn(60, 5, (0.5, 0.5, 0.0)), Side(1e6 * random(20, 6))),
        (drawn(60, 5), Side(random(1, 6).repeat(50, 1))),
    ],
)
def test_strange_rows_give_numbers(source: Side, target: Side) -> None:
    found = diagnose(source, target, HEAD)
    assert found.reason and all(math.isfinite(value) for value in numbers(found))


def test_constant_rows_on_both_sides_show_no_shift() -> None:
    rows = Side(torch.ones(30, 6), torch.arange(30) % 3)
    assert diagnose(rows, Side(torch.ones(40, 6)), HEAD).kind is ShiftKind.NONE


def test_a_class_that_the_head_never_predicts_gives_numbers() -> None:
    head = LinearHead(HEAD.weight, HEAD.bias + torch.tensor([0.0, 0.0, -1e30]))
    found = diagnose(drawn(60, 1), drawn(60, 2), head)
    assert all(math.isfinite(value) for value in numbers(found))


def test_few_rows_say_so_and_one_row_is_refused() -> None:
    found = diagnose(drawn(100, 1), drawn(5, 2), HEAD)
    assert found.kind is ShiftKind.UNKNOWN and "5 target rows are too few" in found.reason
    with pytest.raises(RequestError, match=r"data\.target: 1 rows"):
        diagnose(drawn(100, 1), drawn(1, 2), HEAD)


def test_without_labels_there_is_no_prior() -> None:
    found = diagnose(Side(drawn(100, 1).features), drawn(100, 2), HEAD)
    assert found.prior is None and found.weighted_auc is None and found.kind is ShiftKind.NONE


def test_more_features_than_rows_are_read() -> None:
    source, target = random(40, 90, seed=1), random(40, 90, seed=2)
    target[:, :30] += 1
    assert classifier_test(source, target).statistic > 0.85


def test_the_same_seed_gives_the_same_answer() -> None:
    one, two = (diagnose(drawn(80, 1), drawn(80, 2), HEAD, 3) for _ in range(2))
    assert numbers(one) == numbers(two)


def test_the_auc_is_that_of_ranks_with_ties_and_weights() -> None:
    source, target = random(31, seed=1).mul(2).round(), random(43, seed=2).mul(2).round() + 1
    ranks = mannwhitneyu(target.numpy(), source.numpy()).statistic / (31 * 43)
    assert weighted_auc(source, torch.ones(31).double(), target) == pytest.approx(ranks)
    weights = torch.arange(31).double() % 3
    copies = source.repeat_interleave(weights.long())
    assert weighted_auc(source, weights, target) == pytest.approx(
        weighted_auc(copies, torch.ones(len(copies)).double(), target)
    )


def test_mmd_is_its_formula() -> None:
    source, target = random(12, 3, seed=1), random(9, 3, seed=2) + 0.5
    rows = torch.cat([source, target])
    pairs = [float((rows[i] - rows[j]).norm()) for i in range(21) for j in range(i)]
    width = sorted(pairs)[(len(pairs) - 1) // 2]

    def mean(first: torch.Tensor, second: torch.Tensor, same: bool) -> float:
        found = [
            math.exp(-float((one - two).square().sum()) / (2 * width**2))
            for at, one in enumerate(first)
            for place, two in enumerate(second)
            if not (same and at == place)
        ]
        return sum(found) / len(found)

    wanted = mean(source, source, True) + mean(target, target, True) - 2 * mean(source, target, False)
    assert mmd_test(source, target).statistic == pytest.approx(wanted, abs=1e-9)


def test_no_test_fires_more_often_than_its_level() -> None:
    found = [classifier_test(random(80, 8, seed=seed), random(60, 8, seed=seed + 1000)).p for seed in range(60)]
    assert sum(p < 0.05 for p in found) <= 8
