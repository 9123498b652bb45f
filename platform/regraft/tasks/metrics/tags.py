"""Predicted tags against true ones, word by word, where tags mark no spans: parts of speech, for example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts.findings import Findings, Matrix, Table

Tags = NDArray[np.int64]
"""Tag numbers (words,); a predicted -1 is a word that was not read."""
Counts = NDArray[np.int64]
"""Correct, predicted and true words of each tag, (3, tags)."""
_NOT_READ = "not read"


def tag_counts(true: Tags, predicted: Tags, tags: int) -> Counts:
    """Return one row's numbers of correct, predicted and true words of each tag, (3, tags)."""
    kinds = (true[true == predicted], predicted[predicted >= 0], true)
    return np.stack([np.bincount(kind, minlength=tags) for kind in kinds])


def tag_scores(rows: Sequence[Counts]) -> dict[str, float]:
    """Return the means of precision, recall and F1 over the tags that occur in words or predictions."""
    precision, recall, f1, support, predicted = _by_tag(np.sum(rows, axis=0))
    occurs = (support + predicted) > 0
    return {
        name: float(values[occurs].mean()) if occurs.any() else 0.0
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1))
    }


def tag_findings(pairs: Sequence[tuple[Tags, Tags]], labels: Sequence[str]) -> Findings:
    """Return scores by tag and a confusion matrix of the (true, predicted) tags of all rows."""
    total = np.sum([tag_counts(true, predicted, len(labels)) for true, predicted in pairs], axis=0)
    columns = zip(labels, *(values.tolist() for values in _by_tag(total)), strict=True)
    rows = tuple(
        (
            label,
            precision if predicted else None,
            recall if support else None,
            f1 if support else None,
            support,
            predicted,
        )
        for label, precision, recall, f1, support, predicted in columns
    )
    seen = np.zeros((len(labels), len(labels) + 1), np.int64)
    for true, predicted in pairs:
        np.add.at(seen, (true, predicted), 1)  # -1 is the last column
    matrix = Matrix(
        "What tags were taken for",
        tuple(labels),
        (*labels, _NOT_READ),
        tuple(tuple(map(int, counts)) for counts in seen),
    )
    note = "Support is the number of words with the tag; a tag without any has no recall."
    columns_shown = ("tag", "precision", "recall", "f1", "support", "predicted")
    return Findings(tables=(Table("By tag", columns_shown, rows, note),), matrices=(matrix,))


def _by_tag(total: Counts) -> tuple[NDArray[Any], ...]:
    """Return precision, recall, F1, support and predictions of each tag; a score without words is 0."""
    correct, predicted, support = total
    precision, recall = correct / np.maximum(predicted, 1), correct / np.maximum(support, 1)
    return precision, recall, 2 * correct / np.maximum(predicted + support, 1), support, predicted
