"""Dull baselines know the labels, words and colours, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.selection.dull import from_inputs, majority
from regraft.selection.score import FeatureTarget, TargetKind
from regraft.training.dull_baseline import PlainInputs


def test_the_majority_of_other_rows_is_answered() -> None:
    target = FeatureTarget(TargetKind.CLASSES, np.array([0] * 30 + [1] * 10))
    assert majority(target, np.random.default_rng(0)).value == 0.75


@pytest.mark.parametrize("kind", [TargetKind.NUMBERS, TargetKind.TAGS])
def test_the_mean_of_other_rows_explains_nothing(kind: TargetKind) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    found = majority(FeatureTarget(kind, values > 0 if kind is TargetKind.TAGS else values), np.random.default_rng(0))
    assert -0.2 < found.value <= 0


@pytest.mark.parametrize("kind", list(TargetKind))
def test_words_and_numbers_foretell_rows_that_fitted_nothing(kind: TargetKind) -> None:
    draw = np.random.default_rng(0)
    marked = draw.integers(0, 2, 60)
    numbers = marked[:, None] + draw.normal(size=(60, 1)) * 0.3
    texts = [f"a {'good' if one else 'bad'} film" if draw.random() < 0.9 else "a film" for one in marked]
    values = {"classes": marked + 3, "tags": np.stack([marked, 1 - marked], 1) > 0, "numbers": numbers}[kind]
    target = FeatureTarget(kind, values)
    for inputs in (
        PlainInputs(60, "words", texts={"text": texts}),
        PlainInputs(60, "colours", numbers={"image": np.stack([marked, np.ones(60)], 1)}),
    ):
        found = from_inputs(inputs, target, np.random.default_rng(0))
        assert found.value > 0.5 and found.by_row is not None and found.by_row.shape == (60,)


def test_texts_without_words_and_a_class_of_one_row_give_a_number() -> None:
    target = FeatureTarget(TargetKind.CLASSES, np.array([0] * 8 + [1]))
    found = from_inputs(PlainInputs(9, "words", texts={"text": ["..."] * 9}), target, np.random.default_rng(0))
    assert found.value == pytest.approx(8 / 9)
