"""Dull baselines know the labels, words and colours, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from regraft.selection.dull import colour_counts, logistic, majority, word_counts
from regraft.selection.folds import folds
from regraft.selection.score import FeatureTarget, TargetKind


def test_the_majority_of_other_rows_is_answered() -> None:
    target = FeatureTarget(TargetKind.CLASSES, np.array([0] * 30 + [1] * 10))
    assert majority(target, np.random.default_rng(0)).value == 0.75


@pytest.mark.parametrize("kind", [TargetKind.NUMBERS, TargetKind.TAGS])
def test_the_mean_of_other_rows_explains_nothing(kind: TargetKind) -> None:
    values = np.random.default_rng(0).normal(size=(60, 2))
    found = majority(FeatureTarget(kind, values > 0 if kind is TargetKind.TAGS else values), np.random.default_rng(0))
    assert -0.2 < found.value <= 0


def test_words_tell_texts_apart_as_a_plain_logistic_regression_does() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 80)
    words = (("good", "fine", "nice"), ("bad", "poor", "sad"))
    texts = [f"a {draw.choice(words[label if draw.random() < 0.8 else 1 - label])} film" for label in labels]
    target = FeatureTarget(TargetKind.CLASSES, labels)
    found = logistic(word_counts(texts), target, np.random.default_rng(1))
    sides = [(np.setdiff1d(np.arange(80), fold), fold) for fold in folds(target, 5, np.random.default_rng(1))]
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=10.0, max_iter=1000))
    plain = cross_val_score(model, word_counts(texts), labels, cv=sides).mean()
    assert found.value == pytest.approx(plain, abs=1e-9) and found.value > 0.6
    assert found.by_row is not None and found.by_row.shape == (80,)


def test_colours_tell_pictures_apart_whatever_their_size_and_depth() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(20) % 2
    pictures = [
        draw.integers(label * 120, label * 120 + 130, (5 + at, 7, 3)).astype(np.uint8)
        for at, label in enumerate(labels)
    ]
    pictures[0] = pictures[0][..., 0]
    counts = colour_counts(pictures)
    assert counts.shape == (20, 64) and np.allclose(counts.sum(1), 1)
    assert logistic(counts, FeatureTarget(TargetKind.CLASSES, labels), draw).value == 1


def test_tags_and_numbers_are_foretold_from_counts() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(120, 4))
    for kind, values in ((TargetKind.TAGS, features[:, :2] > 0), (TargetKind.NUMBERS, features[:, :2])):
        assert logistic(features, FeatureTarget(kind, values), draw).value > 0.7


def test_texts_without_words_and_a_class_of_one_row_give_a_number() -> None:
    target = FeatureTarget(TargetKind.CLASSES, np.array([0] * 8 + [1]))
    assert logistic(word_counts(["..."] * 9), target, np.random.default_rng(0)).value == pytest.approx(8 / 9)
