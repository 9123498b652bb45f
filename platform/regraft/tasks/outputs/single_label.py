"""One label per row: loss, metrics, findings and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, ones_like
from torch.nn import functional as F

from regraft.contracts import Answer, ApiForm, Batch, Context, Record, Row, Score, medium_of, scores_form
from regraft.contracts.findings import Findings, Matrix, Table
from regraft.errors import DataError
from regraft.lazy import Later
from regraft.tasks.metrics.classification import (
    auc,
    both,
    calibration,
    operating_points,
    precision_recall,
    roc,
    scores_by_label,
    unmeasured,
)
from regraft.tasks.outputs.one_vector import OneVector, class_tensor

sklearn_metrics = Later("sklearn.metrics")

Classes = NDArray[np.int64]
"""Class numbers (rows,)."""
_LARGEST = 50
"""Most labels for which a confusion matrix is shown."""


class SingleLabel(OneVector):
    """Half of a task: one of several labels for each row, from logits (rows, labels)."""

    problem: ClassVar[str] = "single_label_classification"
    score: ClassVar[Score] = Score("accuracy", "max")

    def target(self, row: Row, context: Context) -> Any:
        """Return the class number of the row's label."""
        label = row.get("label")
        return None if label is None else output_of(label, row, context)

    def targets(self, values: Sequence[Any]) -> Tensor:
        """Return class numbers (rows,)."""
        return class_tensor(values)

    def probabilities(self, logits: Tensor, context: Context) -> Tensor:
        """Return the probability of each label, (rows, labels)."""
        return logits.softmax(-1)

    def row_losses(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return each row's cross entropy and weight, both (rows,): torch divides the former's sum by the latter's.

        `logits` are (rows, labels), and `labels` class numbers (rows,).
        """
        logits = logits.float()
        weights = None if context.class_weights is None else context.class_weights.to(logits)
        smoothing = context.label_smoothing
        losses = F.cross_entropy(logits, labels, weight=weights, reduction="none", label_smoothing=smoothing)
        return losses, ones_like(losses) if weights is None else weights[labels]

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy as (sum, weight); their quotient is torch's weighted and smoothed mean."""
        losses, weights = self.row_losses(output.logits, batch["labels"], context)
        return losses.sum(), weights.sum()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return each row's predicted and true label, `score`, `probabilities`, loss, weight and `error`.

        `probabilities` are those of all labels in fp32, `score` is the predicted label's. `error` is 1 - the true
        label's probability.
        """
        losses, weights = self.row_losses(output.logits, batch["labels"], context)
        everything = self.probabilities(output.logits.detach().double(), context).cpu().numpy()
        rows = zip(everything, batch["labels"].tolist(), losses.tolist(), weights.tolist(), strict=True)
        return [
            {
                "predicted": context.labels[guess := int(probabilities.argmax())],
                "label": context.labels[truth],
                "correct": int(guess == truth),
                "score": float(probabilities[guess]),
                "probabilities": probabilities.astype(np.float32),
                "error": 1 - float(probabilities[truth]),
                "loss": loss,
                "weight": weight,
            }
            for probabilities, truth, loss, weight in rows
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return accuracy, macro F1, balanced accuracy, and the loss that training minimises.

        The loss includes smoothing and weights. Macro means are over the labels that occur, as in scikit-learn: for F1
        in targets or predictions, for balanced accuracy in targets.
        """
        truth = [record["label"] for record in records]
        predicted = [record["predicted"] for record in records]
        weight = sum(record["weight"] for record in records)
        present = sorted(set(truth))
        return {
            "accuracy": float(sklearn_metrics.accuracy_score(truth, predicted)),
            "f1": float(sklearn_metrics.f1_score(truth, predicted, average="macro", zero_division=0)),
            "balanced_accuracy": float(
                sklearn_metrics.recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
            ),
            "loss": sum(record["loss"] for record in records) / weight if weight else 0.0,
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return scores by label, the confusion matrix and the calibration of probabilities.

        For two labels there are also operating points, ROC and precision-recall curves.
        """
        labels, index = context.labels, context.index
        truth = np.array([index[record["label"]] for record in records])
        probabilities = np.stack([record["probabilities"] for record in records])
        top = probabilities.max(1)
        reliability, error = calibration(top, probabilities.argmax(1) == truth, "the predicted label")
        tables, curves = [_by_label(truth, probabilities, labels)], [reliability]
        if len(labels) == 2 and both(truth == 1):
            sides = [truth == number for number in (0, 1)]
            tables.append(operating_points(labels, sides, list(probabilities.T)))
            curves.append(roc(labels[1], sides[1], probabilities[:, 1]))
            curves += [precision_recall(labels[number], sides[number], probabilities[:, number]) for number in (1, 0)]
        tables.append(_calibration_table(error, truth, probabilities))
        matrices = (_confusion(truth, probabilities.argmax(1), labels),) if len(labels) <= _LARGEST else ()
        tables += [] if matrices else [_confused(truth, probabilities.argmax(1), labels)]
        return Findings(tuple(tables), matrices, tuple(curves))

    def api_form(self) -> ApiForm:
        """Return the form of a classifier's scores."""
        return scores_form(self.modality, "softmax", wrapped=medium_of(self.modality).wraps_scores)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return the most probable label with its probability, and `scores`: all labels, most probable first."""
        answers: list[Answer] = []
        for row in self.probabilities(output.logits.detach().double(), context).tolist():
            ranked = sorted(zip(context.labels, row, strict=True), key=lambda pair: -pair[1])
            scores = [{"label": label, "score": score} for label, score in ranked]
            answers.append({**scores[0], "scores": scores})
        return answers


def output_of(label: str, row: Row, context: Context) -> int:
    """Return a label's class number. Raises DataError for a label that the model does not have."""
    if label not in context.index:
        known = ", ".join(context.labels)
        raise DataError(f"label {label!r} is written; the model knows: {known}", where=f"row {row.get('row')}")
    return context.index[label]


def _by_label(truth: Classes, probabilities: NDArray[np.float32], labels: Sequence[str]) -> Table:
    outputs, guess = range(len(labels)), probabilities.argmax(1)
    scores = sklearn_metrics.precision_recall_fscore_support(
        truth, guess, labels=list(outputs), average=None, zero_division=0
    )
    rows = [
        (
            label,
            int(rows),
            *scores_by_label(precision, recall, f1, rows=int(rows), predicted=bool((guess == at).any())),
            auc(truth == at, probabilities[:, at]),
        )
        for at, label, precision, recall, f1, rows in zip(outputs, labels, *scores, strict=True)
    ]
    note = f"AUC is that of the label against all others.{unmeasured(labels, [row[1] for row in rows])}"
    return Table("Labels", ("label", "rows", "precision", "recall", "F1", "AUC"), tuple(rows), note)


def _calibration_table(error: float, truth: Classes, probabilities: NDArray[np.float32]) -> Table:
    hot = np.eye(probabilities.shape[1])[truth]
    brier = float(((probabilities - hot) ** 2).sum(1).mean())
    exact = probabilities.astype(np.float64)  # fp32 rows do not sum to 1 as closely as scikit-learn requires
    likelihood = float(
        sklearn_metrics.log_loss(truth, exact / exact.sum(1, keepdims=True), labels=list(range(probabilities.shape[1])))
    )
    top, right = float(probabilities.max(1).mean()), float((probabilities.argmax(1) == truth).mean())
    columns = ("expected calibration error", "mean probability", "accuracy", "Brier score", "log loss")
    note = "A mean probability above the accuracy shows that the model is overconfident."
    return Table("Calibration", columns, ((error, top, right, brier, likelihood),), note)


def _confusion(truth: Classes, guess: Classes, labels: Sequence[str]) -> Matrix:
    counts = sklearn_metrics.confusion_matrix(truth, guess, labels=list(range(len(labels))))
    rows = tuple(tuple(map(int, row)) for row in counts)
    return Matrix("Confusion of labels", tuple(labels), tuple(labels), rows)


def _confused(truth: Classes, guess: Classes, labels: Sequence[str]) -> Table:
    """Return the pairs of labels that are confused most, in place of a matrix that is too large to read."""
    wrong = Counter(zip(truth[truth != guess].tolist(), guess[truth != guess].tolist(), strict=True))
    rows = tuple((labels[true], labels[predicted], count) for (true, predicted), count in wrong.most_common(_LARGEST))
    return Table("Most frequent confusions", ("label", "predicted", "rows"), rows)
