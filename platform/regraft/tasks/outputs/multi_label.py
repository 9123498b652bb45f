"""What follows from a row having any number of labels, whatever the row is: its loss, its metrics, its answer."""

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
from regraft.tasks.metrics.classification import auc, average_precision, both, calibration, precision_recall
from regraft.tasks.outputs.one_vector import OneVector, real
from regraft.tasks.outputs.single_label import output_of

sklearn_metrics = Later("sklearn.metrics")

_CURVES = 12
"""Labels whose precision-recall curve is shown, at most."""


class MultiLabel(OneVector):
    """Half of a task: all that follows the logits (rows, labels), each of which stands for itself."""

    problem: ClassVar[str] = "multi_label_classification"
    score: ClassVar[Score] = Score("map", "max")

    threshold: float = Field(0.5, gt=0, lt=1)
    """From which probability on a row is said to have a label; the metrics but map depend on it."""

    def balance(self, counts: Mapping[str, int], rows: int, labels: Sequence[str]) -> list[float]:
        """Factors of the loss where a label is present: rows without it for each row with it; 1 where all or none have
        it, for 0 would say that its presence is nothing to learn."""
        present = [counts.get(label, 0) for label in labels]
        return [(rows - count) / count if 0 < count < rows else 1.0 for count in present]

    def check(self, row: Row) -> str | None:
        """A label that is written twice; a row without any label is one that has none of them."""
        labels = row.get("labels") or ()
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            return f"labels holds {twice!r} twice: write it once"
        return super().check(row)

    def target(self, row: Row, context: Context) -> Any:
        """1 for each output whose label the row has, else 0."""
        if row.get("labels") is None:
            return None
        present = {output_of(label, row, context) for label in row["labels"]}
        return [float(output in present) for output in range(len(context.labels))]

    def targets(self, found: Sequence[Any]) -> Tensor:
        """0 and 1 as fp32 (rows, labels)."""
        return real(found)

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Binary cross entropy averaged over labels and summed over rows, and their number; class weights count what
        is present so many times, as torch's `pos_weight` does."""
        losses = _row_losses(output.logits, batch["labels"], context)
        return losses.sum(), torch.ones_like(losses).sum()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """`true` (labels,) of bool, `probabilities` (labels,) in fp32, `correct` when every label is said right, the
        row's loss, also as `error`."""
        losses = _row_losses(output.logits, batch["labels"], context).tolist()
        said = output.logits.detach().float().sigmoid().cpu().numpy()
        true = batch["labels"].cpu().numpy() > 0.5
        return [
            {
                "true": truth,
                "probabilities": probabilities,
                "correct": int(((probabilities >= self.threshold) == truth).all()),
                "loss": loss,
                "error": loss,
            }
            for truth, probabilities, loss in zip(true, said, losses, strict=True)
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """F1 over all labels of all rows (micro) and averaged over the labels that occur (macro), mean average
        precision over the labels that some row has, exact match (every label of a row right), and the loss."""
        true, probabilities = _matrices(records)
        said = probabilities >= self.threshold
        found = (true | said).any(0)
        precisions = [average_precision(*pair) for pair in zip(true.T, probabilities.T, strict=True)]
        known = [precision for precision in precisions if precision is not None]
        f1 = sklearn_metrics.precision_recall_fscore_support(*_several(true, said), average=None, zero_division=0)[2][
            :-1
        ]
        return {
            "f1_micro": float(sklearn_metrics.f1_score(*_several(true, said), average="micro", zero_division=0)),
            "f1_macro": float(f1[found].mean()) if found.any() else 0.0,
            "map": float(np.mean(known)) if known else 0.0,
            "exact_match": float((true == said).all(1).mean()),
            "loss": float(np.mean([record["loss"] for record in records])),
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """A table by label with its counts, the reliability of all probabilities, precision-recall curves of the most
        frequent labels."""
        true, probabilities = _matrices(records)
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
        """`labels`: those from the threshold on, likeliest first; `scores`: all of them with their probabilities."""
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


def _matrices(records: Sequence[Record]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """True labels and probabilities, both (rows, labels)."""
    return np.stack([record["true"] for record in records]), np.stack([record["probabilities"] for record in records])


def _several(*flags: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Flags (rows, labels) with one more label that no row has: of a single label scikit-learn would count its absence
    as a class too."""
    return [np.pad(each, ((0, 0), (0, 1))) for each in flags]


def _by_label(
    true: NDArray[np.bool_], probabilities: NDArray[np.float32], threshold: float, labels: Sequence[str]
) -> Table:
    said = probabilities >= threshold
    scores = [
        score[:-1]
        for score in sklearn_metrics.precision_recall_fscore_support(
            *_several(true, said), average=None, zero_division=0
        )
    ]
    rows: list[tuple[str | int | float | None, ...]] = []
    for at, (label, precision, recall, f1, support) in enumerate(zip(labels, *scores, strict=True)):
        hits = int((true[:, at] & said[:, at]).sum())
        counts = (int(support), hits, int(said[:, at].sum()) - hits, int(support) - hits)
        ranking = (average_precision(true[:, at], probabilities[:, at]), auc(true[:, at], probabilities[:, at]))
        rows.append((label, *counts, float(precision), float(recall), float(f1), *ranking))
    columns = ("label", "rows", "found", "false", "missed", "precision", "recall", "F1", "average precision", "AUC")
    note = f"A label is said from the probability {threshold:g} on; average precision and AUC do not depend on that."
    return Table("Labels", columns, tuple(rows), note)
