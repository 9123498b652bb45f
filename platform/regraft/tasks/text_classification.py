"""Which one of the labels a text has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from regraft.contracts import Batch, Context, Example, Kind, Loader, Row
from regraft.scoring import SingleLabel, output_of
from regraft.tokens import length_read, own_pad_id, padded, refuse_length


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


class TextClassification(SingleLabel):
    """One label for each text; longer texts are cut at `max_length` tokens."""

    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    modality: ClassVar[Literal["text", "image"]] = "text"
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
        refuse_length(self.max_length, load.config)
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
        length = length_read(self.max_length, context)
        example: Example = dict(context.processor(row["text"], truncation=True, max_length=length))
        if (label := row.get("label")) is not None:
            example["labels"] = output_of(label, row, context)
        return example

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Tensors (rows, tokens), padded on the right to the longest; `labels` (rows,) when every example has one."""
        batch = padded(examples, context)
        if all("labels" in example for example in examples):
            batch["labels"] = torch.tensor([example["labels"] for example in examples], dtype=torch.long)
        return batch


def _without_pooler(config: Any) -> dict[str, Any]:
    """The argument that builds a base without its pooler, for the families that know it."""
    known = MODEL_MAPPING.get(type(config), None)
    family = known[0] if isinstance(known, tuple) else known
    knows = family is not None and "add_pooling_layer" in inspect.signature(family.__init__).parameters
    return {"add_pooling_layer": False} if knows else {}


def _with_pad_id(config: Any) -> dict[str, Any]:
    """A padding id for decoders that have none: their classifier reads the last token that is not padding."""
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return {"pad_token_id": end} if own_pad_id(config) is None and isinstance(end, int) else {}
