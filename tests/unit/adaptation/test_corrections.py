"""What every correction must be, found by listing the folder; and what each of them does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.adaptation.correction import Correction, outputs_of
from regraft.adaptation.label_prior import point_estimate
from regraft.adaptation.members import corrections
from regraft.adaptation.probabilities import accuracy
from regraft.adaptation.sides import LinearHead, Side
from regraft.errors import RequestError
from support.paths import PLATFORM
from unit.adaptation.made_rows import HEAD, drawn, random

NAMES = sorted(path.stem for path in (PLATFORM / "regraft/adaptation/corrections").glob("[a-z]*.py"))
FEATURES = [name for name in NAMES if not corrections()[name].for_label_shift]


@pytest.fixture(params=NAMES)
def correction(request: pytest.FixtureRequest) -> Correction:
    return corrections()[request.param]


def test_the_folder_holds_one_correction_a_file() -> None:
    assert list(corrections()) == NAMES


def test_it_is_documented_and_leaves_its_inputs_alone(correction: Correction) -> None:
    assert type(correction).__doc__ and type(correction).__doc__ != Correction.__doc__
    source, target = drawn(50, 1), drawn(40, 2)
    before = [value.clone() for value in (HEAD.weight, HEAD.bias, source.features, target.features)]
    folded = correction.fold(HEAD, source, target)
    after = [HEAD.weight, HEAD.bias, source.features, target.features]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert (folded.weight.shape, folded.bias.shape) == (HEAD.weight.shape, HEAD.bias.shape)
    assert folded.weight.dtype == torch.float64


@pytest.mark.parametrize("name", FEATURES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 40),
    width=st.integers(1, 12),
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
    constant=st.booleans(),
)
def test_the_folded_head_is_the_old_one_on_mapped_rows(
    name: str, seed: int, rows: int, width: int, scale: float, constant: bool
) -> None:
    source = Side(random(30, width, seed=seed) + 1)
    features = scale * random(rows, width, seed=seed + 1) - 2 * scale
    target = Side(torch.ones_like(features) if constant else features)
    head = LinearHead(random(3, width, seed=seed + 2), random(3, seed=seed + 3))
    member = corrections()[name]
    found = member.fold(head, source, target).logits(target.features)
    wanted = head.logits(member.mapped(source, target))
    assert torch.isfinite(found).all()
    assert float((found - wanted).abs().max()) <= 1e-9 * (1 + float(wanted.abs().max()))


@pytest.mark.parametrize("name", FEATURES)
def test_mapped_rows_have_the_moments_of_the_source(name: str) -> None:
    source = drawn(2000, 1)
    moved = Side(drawn(2000, 2).features * torch.linspace(0.5, 2, 6) + 3)
    mapped = corrections()[name].mapped(source, moved)
    assert torch.allclose(mapped.mean(0), source.features.mean(0), atol=1e-9)
    assert torch.allclose(mapped.std(0), source.features.std(0), rtol=0.05)


@pytest.mark.parametrize("name", FEATURES)
def test_an_affine_change_of_the_features_is_undone(name: str) -> None:
    source, target = drawn(2000, 1), drawn(2000, 2)
    assert target.labels is not None
    moved = Side(target.features * torch.linspace(0.5, 2, 6) + 3, target.labels)
    corrected = outputs_of(HEAD, source, moved, corrections()[name])
    before, after = (
        accuracy(logits, target.labels) for logits in (HEAD.logits(moved.features), corrected.target_logits)
    )
    assert after > accuracy(HEAD.logits(target.features), target.labels) - 0.03 > before


def test_a_moved_prior_is_found_and_corrected() -> None:
    shares = (0.85, 0.1, 0.05)
    source, target = drawn(600, 1, spread=1.6), drawn(600, 2, shares, spread=1.6)
    assert source.labels is not None and target.labels is not None
    folded = corrections()["prior"].fold(HEAD, source, target)
    estimate = point_estimate(HEAD.logits(source.features), source.labels, HEAD.logits(target.features))
    assert float((estimate.target - torch.tensor(shares)).abs().max()) < 0.06
    gain = accuracy(folded.logits(target.features), target.labels) - accuracy(
        HEAD.logits(target.features), target.labels
    )
    assert gain > 0.1


def test_the_priors_head_is_calibration_and_the_ratio_of_shares() -> None:
    source, target = drawn(300, 1), drawn(200, 2, (0.6, 0.3, 0.1))
    assert source.labels is not None
    logits = HEAD.logits(target.features)
    found = point_estimate(HEAD.logits(source.features), source.labels, logits)
    wanted = found.calibration.logits(logits) + found.ratio.log()
    folded = corrections()["prior"].fold(HEAD, source, target).logits(target.features)
    assert float((folded - wanted).abs().max()) < 1e-9


def test_a_class_without_source_rows_is_left_alone() -> None:
    source, target = drawn(200, 1, (0.5, 0.5, 0.0)), drawn(100, 2, (0.5, 0.5, 0.0))
    folded = corrections()["prior"].fold(HEAD, source, target)
    assert torch.isfinite(folded.bias).all()


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (drawn(50, 1), Side(torch.zeros(1, 6)), "data.target: 1 rows"),
        (drawn(50, 1), Side(torch.zeros(0, 6)), "data.target: 0 rows"),
        (Side(torch.zeros(1, 6)), drawn(50, 1), "data.train: 1 rows"),
        (drawn(50, 1), Side(torch.zeros(9, 5)), "data.target: features are 5 wide, and the head reads 6"),
        (drawn(50, 1), Side(torch.full((9, 6), torch.nan)), "data.target: some features are infinite"),
        (Side(torch.zeros(9, 6), torch.full((9,), 3)), drawn(50, 1), "data.train: labels are 0 to 2"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(correction: Correction, source: Side, target: Side, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        correction.fold(HEAD, source, target)


def test_the_prior_needs_labels() -> None:
    with pytest.raises(RequestError, match="labelled source rows"):
        corrections()["prior"].fold(HEAD, Side(random(9, 6)), drawn(50, 1))
