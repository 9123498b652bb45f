"""Probabilities against true classes: calibration, ROC and precision-recall curves, operating points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts.findings import Curve, Table
from regraft.lazy import Later

sklearn_calibration = Later("sklearn.calibration")
sklearn_metrics = Later("sklearn.metrics")

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

BINS = 10
SPECIFICITIES = (0.80, 0.90, 0.95)
_NAMED = 10
"""Labels without rows that a note names."""
_POINTS = 200
"""Most points of a curve."""


def calibration(probabilities: Floats, outcomes: Flags, what: str) -> tuple[Curve, float]:
    """Return the reliability curve of probabilities (rows,) for outcomes (rows,), and the expected calibration error.

    Bins have equal width. The error is the distance of probability and frequency, averaged over rows (Naeini et al.,
    2015). `what` names the probabilities in the title.
    """
    frequencies, means = sklearn_calibration.calibration_curve(outcomes, probabilities, n_bins=BINS, strategy="uniform")
    # scikit-learn does not return the number of rows of each point; these are its bins.
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], probabilities), minlength=BINS)
    counts = counts[counts > 0]
    error = float(np.abs(frequencies - means) @ counts / len(probabilities))
    points = tuple(zip(means.tolist(), frequencies.tolist(), strict=True))
    note = f"Expected calibration error {error:.4f}; each point is one of {BINS} bins of equal width."
    curve = Curve(
        f"Reliability of {what}",
        "predicted probability",
        "observed frequency",
        points,
        weights=tuple(map(float, counts)),
        ideal=((0.0, 0.0), (1.0, 1.0)),
        note=note,
    )
    return curve, error


def both(truth: Flags) -> bool:
    """Return whether there are positive and negative rows, without which no ranking can be measured."""
    return bool(truth.any() and not truth.all())


def auc(truth: Flags, scores: Floats) -> float | None:
    """Return the area under the ROC curve; None where all rows are positive or all negative."""
    return float(sklearn_metrics.roc_auc_score(truth, scores)) if both(truth) else None


def average_precision(truth: Flags, scores: Floats) -> float | None:
    """Return the area under the precision-recall curve by scikit-learn's steps; None where no row is positive."""
    return float(sklearn_metrics.average_precision_score(truth, scores)) if truth.any() else None


def scores_by_label(
    precision: float, recall: float, f1: float, *, rows: int, predicted: bool
) -> tuple[float | None, float | None, float | None]:
    """Return a label's precision, recall and F1, None for those that its rows cannot show.

    A label without rows has neither recall nor F1; one that is never predicted there has no precision either.
    """
    if rows:
        return float(precision), float(recall), float(f1)
    return float(precision) if predicted else None, None, None


def unmeasured(labels: Sequence[str], rows: Sequence[int]) -> str:
    """Return a sentence, with a blank before it, that names the labels without rows; empty where there are none."""
    without = [label for label, count in zip(labels, rows, strict=True) if not count]
    if not without:
        return ""
    more = f" and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
    verb = "has" if len(without) == 1 else "have"
    return f" {', '.join(without[:_NAMED])}{more} {verb} no rows here, and so no recall and no F1."


def roc(label: str, truth: Flags, scores: Floats) -> Curve:
    """Return the ROC curve of a label that some rows have and others lack."""
    false, true, _ = sklearn_metrics.roc_curve(truth, scores)
    title = f"ROC curve of {label} (AUC {auc(truth, scores):.4f})"
    return Curve(title, "1 - specificity", "sensitivity", _thinned(false, true), ideal=((0, 0), (0, 1), (1, 1)))


def precision_recall(label: str, truth: Flags, scores: Floats) -> Curve:
    """Return the precision-recall curve of a label that some row has."""
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores, drop_intermediate=True)
    title = f"Precision and recall of {label} (average precision {average_precision(truth, scores):.4f})"
    share = float(truth.mean())
    note = f"A random ranking has the precision {share:.4f}, the label's share of the rows, at every recall."
    return Curve(
        title, "recall", "precision", _thinned(recall[::-1], precision[::-1]), ideal=((0, 1), (1, 1)), note=note
    )


def operating_points(labels: Sequence[str], truths: Sequence[Flags], scores: Sequence[Floats]) -> Table:
    """Return, for each label as the positive one, the most sensitive threshold at each of SPECIFICITIES."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for label, truth, score in zip(labels, truths, scores, strict=True):
        false, true, thresholds = sklearn_metrics.roc_curve(truth, score, drop_intermediate=False)
        for wanted in SPECIFICITIES:
            # 1 - false may be below the specificity of the counts by a rounding error.
            best = int(np.flatnonzero(1 - false >= wanted - 1e-9)[-1])
            threshold = float(thresholds[best]) if np.isfinite(thresholds[best]) else None
            rows.append((label, wanted, float(true[best]), float(1 - false[best]), threshold))
    columns = ("positive", "specificity at least", "sensitivity", "specificity", "threshold")
    note = (
        "A row counts as positive where its probability is at least the threshold. Thresholds were chosen on these "
        "rows: confirm them on others before use."
    )
    return Table("Operating points", columns, tuple(rows), note)


def _thinned(x: Floats, y: Floats) -> tuple[tuple[float, float], ...]:
    """Return at most _POINTS of the points, both ends among them."""
    kept = np.linspace(0, len(x) - 1, min(_POINTS, len(x))).round().astype(int)
    return tuple(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
