"""Each validator equals its formula, written again in NumPy; none gives a number where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from regraft.adaptation.density_ratio import density_ratio
from regraft.adaptation.members import validators
from regraft.adaptation.validator import Outputs, Validator, paired_interval
from regraft.adaptation.validators.dev import risk
from support.paths import PLATFORM
from unit.adaptation.made_rows import HEAD, drawn, random, random_outputs

Array = NDArray[np.float64]
NAMES = sorted(path.stem for path in (PLATFORM / "regraft/adaptation/validators").glob("[a-z]*.py"))


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def im(outputs: Outputs) -> float:
    shares = softmax(outputs.target_logits.numpy())
    mean = shares.mean(0)
    return float(-(mean * np.log(mean)).sum() + (shares * np.log(shares)).sum(1).mean())


def snd(outputs: Outputs) -> float:
    shares = softmax(outputs.target_logits.numpy())
    units = shares / np.linalg.norm(shares, axis=1, keepdims=True)
    entropies = []
    for row in range(len(units)):
        others = np.delete(units, row, 0) @ units[row] / 0.05
        near = softmax(others[None])[0]
        entropies.append(-(near * np.log(near)).sum())
    return float(np.mean(entropies))


def bnm(outputs: Outputs) -> float:
    return float(np.linalg.norm(softmax(outputs.target_logits.numpy()), "nuc") / len(outputs.target_logits))


def dev(outputs: Outputs) -> float:
    source, target = outputs.source_features.numpy(), outputs.target_features.numpy()
    weights = np.empty(len(source))
    for half in (0, 1):
        rows = np.concatenate([source[1 - half :: 2], target[1 - half :: 2]])
        sides = np.repeat([0, 1], [len(source[1 - half :: 2]), len(target[1 - half :: 2])])
        mean, spread = rows.mean(0), rows.std(0)
        found = LogisticRegression(max_iter=300).fit((rows - mean) / spread, sides)
        chance = found.predict_proba((source[half::2] - mean) / spread)
        weights[half::2] = chance[:, 1] / chance[:, 0] * (sides == 0).sum() / (sides == 1).sum()
    shares = softmax(outputs.source_logits.numpy())
    assert outputs.source_labels is not None
    losses = -np.log(shares[np.arange(len(shares)), outputs.source_labels.numpy()])
    eta = -np.cov(weights * losses, weights)[0, 1] / np.var(weights, ddof=1)
    return -float(np.mean(weights * losses) + eta * np.mean(weights) - eta)


FORMULAE = {"im": im, "snd": snd, "bnm": bnm, "dev": dev}


@pytest.fixture(params=NAMES)
def validator(request: pytest.FixtureRequest) -> Validator:
    return validators()[request.param]


def test_the_folder_holds_one_validator_a_file_each_with_a_formula_here() -> None:
    assert list(validators()) == NAMES == sorted(FORMULAE)


def test_it_is_documented(validator: Validator) -> None:
    assert type(validator).__doc__ and type(validator).__doc__ != Validator.__doc__


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_formula(validator: Validator, seed: int) -> None:
    outputs = random_outputs(61, seed=10 * seed)
    assert validator.score(outputs) == pytest.approx(FORMULAE[validator.name](outputs), abs=1e-6)


def test_blocks_of_rows_are_one(validator: Validator) -> None:
    outputs = random_outputs(1100)
    assert validator.score(outputs) == pytest.approx(FORMULAE[validator.name](outputs), abs=1e-6)


@pytest.mark.parametrize("spoiled", ["nan", "empty", "one row", "certain", "class absent", "constant"])
def test_it_gives_a_number_or_none(validator: Validator, spoiled: str) -> None:
    usual = random_outputs(40)
    rows = torch.arange({"empty": 0, "one row": 1}.get(spoiled, 40))
    outputs = usual.take(rows, rows)
    if spoiled == "nan":
        outputs = Outputs(*outputs_parts(usual)[:4], usual.target_logits * math.nan)
    if spoiled in ("certain", "class absent"):
        scale = 1e4 if spoiled == "certain" else torch.tensor([1.0, 1.0, 1.0, 0.0])
        absent = 0.0 if spoiled == "certain" else torch.tensor([0.0, 0.0, 0.0, -1e30])
        outputs = Outputs(*outputs_parts(usual)[:4], usual.target_logits * scale + absent)
    if spoiled == "constant":
        features, logits = torch.ones(40, 5), torch.zeros(40, 4)
        outputs = Outputs(features, logits, usual.source_labels, features, logits)
    found = validator.score(outputs)
    assert found is None or math.isfinite(found)
    if spoiled in ("nan", "empty"):
        assert found is None


def outputs_parts(outputs: Outputs) -> tuple[torch.Tensor | None, ...]:
    return (
        outputs.source_features,
        outputs.source_logits,
        outputs.source_labels,
        outputs.target_features,
        outputs.target_logits,
    )


def test_dev_needs_labels_and_takes_equal_weights() -> None:
    usual = random_outputs(40)
    parts = list(outputs_parts(usual))
    parts[2] = None
    assert validators()["dev"].score(Outputs(*parts)) is None
    assert risk(torch.tensor([1.0, 3.0]).double(), torch.ones(2).double()) == pytest.approx(2.0)


def test_the_density_ratio_is_that_of_two_gaussians() -> None:
    source, target = random(4000, 3, seed=1), random(3000, 3, seed=2)
    target[:, 0] += 0.5
    found = density_ratio(source, target)
    assert found is not None
    assert float((found.log() - (0.5 * source[:, 0] - 0.125)).abs().mean()) < 0.1
    assert density_ratio(source[:3], target) is None


def test_an_interval_holds_the_difference_and_is_narrower_with_more_rows(validator: Validator) -> None:
    widths, draws = [], 10 if validator.name == "dev" else 60
    for rows in (60, 240):
        source, target = drawn(rows, 1), drawn(rows, 2)
        logits = HEAD.logits(target.features)
        usual, sharper = (
            Outputs(source.features, factor * HEAD.logits(source.features), source.labels, target.features, each)
            for factor, each in ((1.0, logits), (1.5, 2 * logits))
        )
        same = paired_interval(validator, usual, usual, draws=4)
        assert same is not None and (same.low, same.difference, same.high) == (0, 0, 0)
        found = paired_interval(validator, sharper, usual, draws=draws)
        assert found is not None and found.low <= found.difference <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] or validator.name == "dev"
    few = usual.take(torch.arange(10), torch.arange(10))
    assert paired_interval(validator, few, few) is None
