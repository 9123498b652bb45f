"""Dull baselines of labelled rows, cross-fitted: what the labels alone, words and colours foretell without any base.

They are the baselines of comparisons (`training.dull_baseline`). Random weights of a base are no case of their own:
their features are scored as any other's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from regraft.selection.folds import folds, others
from regraft.selection.row_scores import by_row
from regraft.selection.score import FeatureTarget, Floats, Indices, Scored, TargetKind
from regraft.training.dull_baseline import DullTarget, PlainInputs, fitted_outputs

FOLDS = 5


def majority(target: FeatureTarget, draw: np.random.Generator) -> Scored:
    """Return the score of always answering the most frequent class, or the mean, of other rows."""
    columns = target.columns()
    return _cross_fitted(lambda rows, fold: np.tile(columns[rows].mean(0), (len(fold), 1)), target, draw)


def from_inputs(inputs: PlainInputs, target: FeatureTarget, draw: np.random.Generator) -> Scored:
    """Return the score of a linear model on what a model without a base reads of inputs, cross-fitted in five folds."""
    columns = target.columns()
    classes = target.kind is TargetKind.CLASSES
    values = columns.argmax(1) if classes else columns

    def predict(rows: Indices, fold: Indices) -> Floats:
        known = DullTarget(target.kind.value, values[rows], columns.shape[1])
        found = fitted_outputs(_take(inputs, rows), known, _take(inputs, fold))
        # Tags are answered by logits, which scores read as probabilities.
        return 1 / (1 + np.exp(-found)) if target.kind is TargetKind.TAGS else found

    return _cross_fitted(predict, target, draw)


def _take(inputs: PlainInputs, rows: Indices) -> PlainInputs:
    texts = {name: [found[row] for row in rows] for name, found in inputs.texts.items()}
    numbers = {name: found[rows] for name, found in inputs.numbers.items()}
    return PlainInputs(len(rows), inputs.reads, texts, numbers)


def _cross_fitted(
    predict: Callable[[Indices, Indices], Floats], target: FeatureTarget, draw: np.random.Generator
) -> Scored:
    predicted = np.empty_like(target.columns())
    for fold in folds(target, FOLDS, draw):
        predicted[fold] = predict(others(fold, len(target)), fold)
    return Scored.of_rows(by_row(predicted, target))
