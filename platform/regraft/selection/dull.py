"""Dull baselines: what the labels alone, counted words and counted colours foretell without any base.

Random weights of a base are no case of their own: their features are scored as any other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import MaxAbsScaler

from regraft.selection.folds import folds, others
from regraft.selection.row_scores import by_row
from regraft.selection.score import FeatureTarget, Floats, Indices, Scored, TargetKind

FOLDS = 5
LEVELS = 4
"""Levels of each colour in a histogram: 64 colours."""
MOST_WORDS = 20_000


def majority(target: FeatureTarget, draw: np.random.Generator) -> Scored:
    """Return the score of always answering the most frequent class, or the mean, of other rows."""
    columns = target.columns()
    return _cross_fitted(lambda rows, fold: np.tile(columns[rows].mean(0), (len(fold), 1)), target, draw)


def logistic(features: Any, target: FeatureTarget, draw: np.random.Generator) -> Scored:
    """Return the score of a logistic regression, or of a ridge regression for numbers, cross-fitted in five folds.

    Features are (rows, width), dense or sparse, such as those of `word_counts` and `colour_counts`.
    """
    columns = target.columns()
    fit = _fit_ridge if target.kind is TargetKind.NUMBERS else _fit_logistic
    if target.kind is TargetKind.TAGS:
        fit = _fit_each_tag
    return _cross_fitted(lambda rows, fold: fit(features[rows], columns[rows])(features[fold]), target, draw)


def word_counts(texts: Sequence[str]) -> csr_matrix:
    """Return TF-IDF of words and pairs of words, sparse (rows, words); a text without words is all 0."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=MOST_WORDS, token_pattern=r"\w+")
    try:
        return csr_matrix(vectorizer.fit_transform(texts))
    except ValueError:  # no text has a word
        return csr_matrix((len(texts), 1))


def colour_counts(pictures: Sequence[NDArray[np.uint8]]) -> Floats:
    """Return the share of each of 64 colours, (rows, 64), of pictures (height, width, 3) or grey (height, width)."""
    found = np.empty((len(pictures), LEVELS**3))
    for at, picture in enumerate(pictures):
        colours = np.asarray(picture)
        colours = np.repeat(colours[..., None], 3, -1) if colours.ndim == 2 else colours[..., :3]
        levels = (colours.astype(np.int64) * LEVELS) // 256
        numbers = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
        found[at] = np.bincount(numbers.ravel(), minlength=LEVELS**3) / max(numbers.size, 1)
    return found


def _cross_fitted(
    predict: Callable[[Indices, Indices], Floats], target: FeatureTarget, draw: np.random.Generator
) -> Scored:
    predicted = np.empty_like(target.columns())
    for fold in folds(target, FOLDS, draw):
        predicted[fold] = predict(others(fold, len(target)), fold)
    return Scored.of_rows(by_row(predicted, target))


def _fit_logistic(features: Any, columns: Floats) -> Callable[[Any], Floats]:
    """Fit one class a row; classes without a fitted row have probability 0."""
    labels = columns.argmax(1)
    if (labels == labels[0]).all():
        return lambda rows: np.tile(columns[0], (rows.shape[0], 1))
    scaler = MaxAbsScaler().fit(features)
    model = LogisticRegression(C=10.0, max_iter=1000).fit(scaler.transform(features), labels)

    def predict(rows: Any) -> Floats:
        found = np.zeros((rows.shape[0], columns.shape[1]))
        found[:, model.classes_] = model.predict_proba(scaler.transform(rows))
        return found

    return predict


def _fit_each_tag(features: Any, columns: Floats) -> Callable[[Any], Floats]:
    models = [_fit_logistic(features, np.stack([1 - tag, tag], 1)) for tag in columns.T]
    return lambda rows: np.stack([model(rows)[:, 1] for model in models], 1)


def _fit_ridge(features: Any, columns: Floats) -> Callable[[Any], Floats]:
    scaler = MaxAbsScaler().fit(features)
    model = Ridge(alpha=1.0).fit(scaler.transform(features), columns)
    return lambda rows: np.asarray(model.predict(scaler.transform(rows))).reshape(rows.shape[0], -1)
