"""Any number of labels per row: loss, metrics, findings and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from regraft.contracts import Answer, ApiForm, Batch, Context, Record, Row, Score, medium_of, scores_form
from regraft.contracts.findings import Findings, Table
from regraft.lazy import Later
from regraft.tasks.metrics.classification import (
    auc,
    average_precision,
    both,
    calibration,
    precision_recall,
    scores_by_label,
    unmeasured,
)
from regraft.tasks.outputs.one_vector import OneVector, float_tensor, stacked
from regraft.tasks.outputs.single_label import output_of

sklearn_metrics = Later("sklearn.metrics")

_CURVES = 12
"""Most labels whose precision-recall curve is shown."""


class MultiLabel(OneVector):
    """Half of a task: any number of labels for each row, from logits (rows, labels) that are independent."""

    problem: ClassVar[str] = "multi_label_classification"
    score: ClassVar[Score] = Score("map", "max")

    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability from which a row is answered to have a label; all metrics but map depend on it."""

    def balance(self, counts: Mapping[str, int], rows: int, labels: Sequence[str]) -> list[float]:
        """Return the loss's factor where a label is present: rows without it per row with it.

        The factor is 1 where all rows or none have the label: with 0, its presence would not be learned.
        """
        present = [counts.get(label, 0) for label in labels]
        return [(rows - count) / count if 0 < count < rows else 1.0 for count in present]

    def check(self, row: Row) -> str | None:
        """Refuse a label that is written twice; an empty list is a row without labels."""
        labels = row.get("labels") or ()
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            return f"labels holds {twice!r} twice: write it once"
        return super().check(row)

    def target(self, row: Row, context: Context) -> Any:
        """Return 1 for each output whose label the row has, else 0."""
        if row.get("labels") is None:
            return None
        present = {output_of(label, row, context) for label in row["labels"]}
        return [float(output in present) for output in range(len(context.labels))]

    def targets(self, values: Sequence[Any]) -> Tensor:
        """Return 0 and 1 as fp32, (rows, labels)."""
        return float_tensor(values)

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the binary cross entropy, averaged over labels and summed over rows, and the number of rows.

        Class weights multiply the loss of labels that are present, as torch's `pos_weight`.
        """
        losses = _row_losses(output.logits, batch["labels"], context)
        return losses.sum(), torch.ones_like(losses).sum()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row `true` (labels,) of bool, `probabilities` (labels,) in fp32, the loss, also as `error`, and
        `correct`, which is 1 where every label is right."""
        losses = _row_losses(output.logits, batch["labels"], context).tolist()
        scores = output.logits.detach().float().sigmoid().cpu().numpy()
        true = batch["labels"].cpu().numpy() > 0.5
        return [
            {
                "true": truth,
                "probabilities": probabilities,
                "correct": int(((probabilities >= self.threshold) == truth).all()),
                "loss": loss,
                "error": loss,
            }
            for truth, probabilities, loss in zip(true, scores, losses, strict=True)
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return F1 (micro and macro), mean average precision, exact match and the loss.

        Macro F1 is the mean over labels that occur in targets or predictions. Average precision is the mean over
        labels that some row has. Exact match is the share of rows with every label right.
        """
        true, probabilities = stacked(records, "true", "probabilities")
        predicted = probabilities >= self.threshold
        occurs = (true | predicted).any(0)
        precisions = [average_precision(*pair) for pair in zip(true.T, probabilities.T, strict=True)]
        known = [precision for precision in precisions if precision is not None]
        f1 = sklearn_metrics.precision_recall_fscore_support(
            *_with_absent_label(true, predicted), average=None, zero_division=0
        )[2][:-1]
        return {
            "f1_micro": float(
                sklearn_metrics.f1_score(*_with_absent_label(true, predicted), average="micro", zero_division=0)
            ),
            "f1_macro": float(f1[occurs].mean()) if occurs.any() else 0.0,
            "map": float(np.mean(known)) if known else 0.0,
            "exact_match": float((true == predicted).all(1).mean()),
            "loss": float(np.mean([record["loss"] for record in records])),
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return counts and scores by label, the reliability of all probabilities, and precision-recall curves of
        frequent labels."""
        true, probabilities = stacked(records, "true", "probabilities")
        reliability, _ = calibration(probabilities.ravel(), true.ravel(), "all labels of all rows")
        often = [at for at in np.argsort(-true.sum(0), kind="stable")[:_CURVES] if both(true[:, at])]
        curves = [precision_recall(context.labels[at], true[:, at], probabilities[:, at]) for at in often]
        return Findings(
            tables=(_by_label(true, probabilities, self.threshold, context.labels),),
            curves=(reliability, *curves),
        )

    def api_form(self) -> ApiForm:
        """Return the form of a classifier's scores."""
        return scores_form(self.modality, "sigmoid", wrapped=medium_of(self.modality).wraps_scores)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `labels`, those from the threshold on, and `scores`, all of them; both most probable first."""
        answers: list[Answer] = []
        for row in output.logits.detach().double().sigmoid().tolist():
            ranked = sorted(zip(context.labels, row, strict=True), key=lambda pair: -pair[1])
            scores = [{"label": label, "score": score} for label, score in ranked]
            answers.append({"labels": [label for label, score in ranked if score >= self.threshold], "scores": scores})
        return answers


def _row_losses(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
    weights = None if context.class_weights is None else context.class_weights.to(logits.device)
    losses = F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=weights, reduction="none")
    return losses.mean(1)


def _with_absent_label(*flags: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Return flags (rows, labels) with one more label that no row has.

    With a single label, scikit-learn would count its absence as a class too.
    """
    return [np.pad(each, ((0, 0), (0, 1))) for each in flags]


def _by_label(
    true: NDArray[np.bool_], probabilities: NDArray[np.float32], threshold: float, labels: Sequence[str]
) -> Table:
    predicted = probabilities >= threshold
    scores = [
        score[:-1]
        for score in sklearn_metrics.precision_recall_fscore_support(
            *_with_absent_label(true, predicted), average=None, zero_division=0
        )
    ]
    rows: list[tuple[str | int | float | None, ...]] = []
    for at, (label, precision, recall, f1, support) in enumerate(zip(labels, *scores, strict=True)):
        hits = int((true[:, at] & predicted[:, at]).sum())
        counts = (int(support), hits, int(predicted[:, at].sum()) - hits, int(support) - hits)
        ranking = (average_precision(true[:, at], probabilities[:, at]), auc(true[:, at], probabilities[:, at]))
        measured = scores_by_label(precision, recall, f1, rows=int(support), predicted=bool(predicted[:, at].any()))
        rows.append((label, *counts, *measured, *ranking))
    columns = ("label", "rows", "found", "false", "missed", "precision", "recall", "F1", "average precision", "AUC")
    note = f"A label is predicted from the probability {threshold:g} on; average precision and AUC do not depend on it."
    note += unmeasured(labels, true.sum(0).tolist())
    return Table("Labels", columns, tuple(rows), note)
