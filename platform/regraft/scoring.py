"""What follows from a row having one label, whatever the row is: its loss, its metrics, its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch import Tensor, ones_like
from torch.nn import functional as F

from regraft.contracts import Answer, Batch, Context, Record, Row, Score
from regraft.errors import DataError
from regraft.outputs import OneVector, whole


class SingleLabel(OneVector):
    """Half of a task: all that follows the logits (rows, labels). A member says what a row is and how it is encoded."""

    problem: ClassVar[str] = "single_label_classification"
    score: ClassVar[Score] = Score("accuracy", "max")

    def truth(self, row: Row, context: Context) -> Any:
        """The output that stands for the row's label."""
        label = row.get("label")
        return None if label is None else output_of(label, row, context)

    def truths(self, found: Sequence[Any]) -> Tensor:
        """Class numbers (rows,)."""
        return whole(found)

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Cross entropy as (sum, weight); divided, it is torch's own weighted and smoothed mean."""
        losses, weights = _row_losses(output.logits, batch["labels"], context)
        return losses.sum(), weights.sum()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Predicted and true label, the predicted one's probability, and the row's share of the loss."""
        losses, weights = _row_losses(output.logits, batch["labels"], context)
        scores, predicted = output.logits.detach().double().softmax(-1).max(-1)
        return [
            {
                "predicted": context.labels[guess],
                "label": context.labels[truth],
                "correct": int(guess == truth),
                "score": score,
                "loss": loss,
                "weight": weight,
            }
            for guess, truth, score, loss, weight in zip(
                predicted.tolist(),
                batch["labels"].tolist(),
                scores.tolist(),
                losses.tolist(),
                weights.tolist(),
                strict=True,
            )
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Accuracy, macro F1, balanced accuracy, and the loss that training minimises, smoothing and weights included.

        Macro means count the labels that occur, as scikit-learn's do: for F1 among truths or predictions, for balanced
        accuracy among the truths.
        """
        truth = [record["label"] for record in records]
        predicted = [record["predicted"] for record in records]
        weight = sum(record["weight"] for record in records)
        present = sorted(set(truth))
        return {
            "accuracy": float(accuracy_score(truth, predicted)),
            "f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
            "balanced_accuracy": float(
                recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
            ),
            "loss": sum(record["loss"] for record in records) / weight if weight else 0.0,
        }

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """The likeliest label with its probability, and `scores`: all labels, likeliest first."""
        answers: list[Answer] = []
        for row in output.logits.detach().double().softmax(-1).tolist():
            ranked = sorted(zip(context.labels, row, strict=True), key=lambda pair: -pair[1])
            scores = [{"label": label, "score": score} for label, score in ranked]
            answers.append({**scores[0], "scores": scores})
        return answers


def output_of(label: str, row: Row, context: Context) -> int:
    """The output that stands for a label; DataError names one that the model does not know."""
    if label not in context.index:
        known = ", ".join(context.labels)
        raise DataError(f"label {label!r} is written; the model knows: {known}", where=f"row {row.get('row')}")
    return context.index[label]


def _row_losses(logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Each row's cross entropy and its weight, both (rows,): torch divides the sum of the one by that of the other."""
    logits = logits.float()
    weights = None if context.class_weights is None else context.class_weights.to(logits)
    losses = F.cross_entropy(logits, labels, weight=weights, reduction="none", label_smoothing=context.label_smoothing)
    return losses, ones_like(losses) if weights is None else weights[labels]
