"""Which one of the labels a text has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from regraft.contracts import Answer, Batch, Context, Example, Kind, Loader, Record, Row, Score, Task
from regraft.errors import DataError, Unsupported

USUAL_LENGTH = 256


class MeanPooledClassifier(nn.Module):
    """A linear classifier on the mean of the base's token states.

    Sentence encoders are trained with this pooling, while transformers' own classifiers read the first token, whose
    state says little in such a base. The base is built without its pooler: weights that never get a gradient make
    DistributedDataParallel fail on its second step.
    """

    base_model_prefix = "base"

    def __init__(self, base: nn.Module, labels: Sequence[str]) -> None:
        super().__init__()
        self.base = base
        self.config = cast(PreTrainedConfig, base.config)
        self.config.num_labels = len(labels)
        self.config.id2label = dict(enumerate(labels))
        self.config.label2id = {label: number for number, label in enumerate(labels)}
        self.dropout = nn.Dropout(_head_dropout(self.config))
        self.classifier = nn.Linear(self.config.hidden_size, len(labels))
        nn.init.normal_(self.classifier.weight, std=getattr(self.config, "initializer_range", 0.02))
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """Logits (rows, labels) from ids and mask (rows, tokens)."""
        states = self.base(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = masked_mean(states, attention_mask)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean (rows, width) of states (rows, tokens, width) where mask (rows, tokens) is 1; in fp32 at least."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    kept = mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(1) / kept.sum(1).clamp(min=1)


def _head_dropout(config: Any) -> float:
    """The classifier's dropout, under the names that transformers' families give it."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout"):
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    return 0.0


class TextClassification(Task):
    """One label for each text; longer texts are cut at `max_length` tokens."""

    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    modality: ClassVar[Literal["text", "image"]] = "text"
    score: ClassVar[Score] = Score("accuracy", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset(
        {"class_weights", "label_smoothing", "bucketing", "baselines", "prototypes"}
    )

    max_length: int | None = Field(None, ge=2)
    """Tokens of a text that are read; null is what the base can read, at most 256."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """What the classifier reads: cls is transformers' own classifier of the base (first token in most encoders, last
    token in decoders); mean is the mean over all tokens; auto is mean where the base is a sentence encoder that says
    so, else cls."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """The base's own classifier, or MeanPooledClassifier; Unsupported when the base cannot read max_length."""
        limit = _positions(load.config)
        if self.max_length is not None and limit is not None and self.max_length > limit:
            raise Unsupported(
                f"{self.max_length} is written; this base reads 2 to {limit} tokens", where="task.max_length"
            )
        if self.pooling == "mean" or (self.pooling == "auto" and load.pooling == "mean"):
            return MeanPooledClassifier(load("AutoModel", **_without_pooler(load.config)), labels)
        return load(self.auto, labels=labels, **_with_pad_id(load.config))

    def check(self, row: Row) -> str | None:
        """A text without a visible character has nothing to learn from."""
        return None if row["text"].strip() else "text is empty: write one, or leave the row out"

    def length(self, row: Row) -> int:
        """Characters: close enough to tokens for bucketing, and known without the tokenizer."""
        return len(row["text"])

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Token ids as lists of int, not padded; `labels` is the label's index."""
        example: Example = dict(context.processor(row["text"], truncation=True, max_length=self._tokens(context)))
        if (label := row.get("label")) is not None:
            if label not in context.index:
                known = ", ".join(context.labels)
                raise DataError(f"label {label!r} is written; the model knows: {known}", where=f"row {row.get('row')}")
            example["labels"] = context.index[label]
        return example

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Tensors (rows, tokens), padded on the right to the longest; `labels` (rows,) when every example has one."""
        longest = max(len(example["input_ids"]) for example in examples)
        fill = {"input_ids": _pad_id(context)}
        batch: Batch = {}
        for name in examples[0]:
            if name == "labels":
                continue
            padded = [example[name] + [fill.get(name, 0)] * (longest - len(example[name])) for example in examples]
            batch[name] = torch.tensor(padded, dtype=torch.long)
        if all("labels" in example for example in examples):
            batch["labels"] = torch.tensor([example["labels"] for example in examples], dtype=torch.long)
        return batch

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

    def _tokens(self, context: Context) -> int:
        """How many tokens of a text are read; a tokenizer without a limit says 1e30."""
        wanted = self.max_length or USUAL_LENGTH
        return min(wanted, int(context.processor.model_max_length), _positions(context.config) or wanted)


def _row_losses(logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Each row's cross entropy and its weight, both (rows,): torch divides the sum of the one by that of the other."""
    logits = logits.float()
    weights = None if context.class_weights is None else context.class_weights.to(logits)
    losses = F.cross_entropy(logits, labels, weight=weights, reduction="none", label_smoothing=context.label_smoothing)
    return losses, torch.ones_like(losses) if weights is None else weights[labels]


def _positions(config: Any) -> int | None:
    """Tokens that the position table holds, or None where there is no such limit.

    Families after RoBERTa count positions from the padding id + 1, so the first two entries of their table are lost.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    counted_from_pad = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "data2vec-text"}
    if getattr(config, "model_type", "") in counted_from_pad:
        positions -= (config.pad_token_id or 0) + 1
    return positions


def _without_pooler(config: Any) -> dict[str, Any]:
    """The argument that builds a base without its pooler, for the families that know it."""
    known = MODEL_MAPPING.get(type(config), None)
    family = known[0] if isinstance(known, tuple) else known
    knows = family is not None and "add_pooling_layer" in inspect.signature(family.__init__).parameters
    return {"add_pooling_layer": False} if knows else {}


def _own_pad_id(config: Any) -> int | None:
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else None


def _with_pad_id(config: Any) -> dict[str, Any]:
    """A padding id for decoders that have none: their classifier reads the last token that is not padding."""
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return {"pad_token_id": end} if _own_pad_id(config) is None and isinstance(end, int) else {}


def _pad_id(context: Context) -> int:
    """The model's padding id before the tokenizer's: it is the model that skips padding by comparing ids."""
    own = _own_pad_id(context.config)
    own = context.processor.pad_token_id if own is None else own
    return 0 if own is None else int(own)
