"""Texts and pairs of texts as a base's inputs, and the heads that classify them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from regraft.contracts import Batch, Context, Example, Loader, Row, TextLengths
from regraft.tasks.inputs.tokens import (
    length_read,
    lengths_of,
    own_pad_id,
    padded,
    refuse_length,
    refuse_unknown_ids,
)
from regraft.tasks.outputs.one_vector import OneVector

_LONG = 16
"""Characters per readable token beyond which both texts of a pair are cut before they are joined."""
_SLACK = 64
"""Tokens kept beyond those that can be read: a word that is cut in two may be tokenised otherwise from its start."""


class TextRow(OneVector):
    """Half of a task: a row is a text, or a pair; longer ones are cut at `max_length` tokens."""

    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    modality: ClassVar[str] = "text"
    inputs: ClassVar[tuple[str, ...]] = ("text",)
    """The columns that the tokenizer is given, in the order of its arguments."""
    api_names: ClassVar[Mapping[str, str]] = {"text_pair": "pair"}

    max_length: int | None = Field(None, ge=2)
    """Tokens of a text that are read; null is what the base can read, at most 256."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """What the head reads: cls is transformers' own head of the base (first token in most encoders, last token in
    decoders); mean is the mean over all tokens; auto is mean where the base is a sentence encoder that says so, else
    cls."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's own classifier, or MeanPooledClassifier.

        Raises Unsupported where the base cannot read max_length tokens.
        """
        refuse_length(self.max_length, load.config)
        outputs = self.outputs(labels)
        if self.pooling == "mean" or (self.pooling == "auto" and load.pooling == "mean"):
            base = load("AutoModel", problem_type=self.problem, **without_pooler(load.config))
            return MeanPooledClassifier(base, outputs)
        return load(self.auto, labels=outputs, problem_type=self.problem, **_with_pad_id(load.config))

    def check(self, row: Row) -> str | None:
        """Refuse a text without a visible character."""
        for name in self.inputs:
            if not row[name].strip():
                return f"{name} is empty: write one, or leave the row out"
        return super().check(row)

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each text, or of each pair."""
        texts = [[row[name] for name in self.inputs] for row in rows]
        return [lengths_of(texts, length_read(self.max_length, context), context)]

    def length(self, row: Row) -> int:
        """Return the number of characters: close enough to tokens for bucketing, and known without a tokenizer."""
        return sum(len(row[name]) for name in self.inputs)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int, and `labels` where the row has its target.

        A pair is joined as the base's own tokenizer does it; the longer text is cut first, so that both are read.
        """
        length = length_read(self.max_length, context)
        texts: Sequence[str] = [row[name] for name in self.inputs]
        if len(texts) > 1 and min(map(len, texts)) > _LONG * length:
            texts = _readable_starts(texts, length, context.processor)
        example: Example = dict(context.processor(*texts, truncation=True, max_length=length))
        refuse_unknown_ids(example["input_ids"], row.get("row"), context)
        return self.with_target(without_unread_types(example, context), row, context)

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), padded on the right to the longest row.

        `labels` (rows, ...) is among them if every example has it.
        """
        return self.with_targets(padded(examples, context), examples)


def without_unread_types(example: Example, context: Context) -> Example:
    """Return an example without `token_type_ids`, where the base does not read them."""
    config: type = type(context.config)
    known = _knows_types(config, getattr(context.config, "type_vocab_size", None))
    return example if known else {name: value for name, value in example.items() if name != "token_type_ids"}


class MeanPooledClassifier(nn.Module):
    """A linear head on the mean of the base's token states.

    Sentence encoders are trained with this pooling, while transformers' own classifiers read the first token, whose
    state carries little information in such a base. The base is built without its pooler: weights without a gradient
    make DistributedDataParallel fail on its second step.
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
        """Return logits (rows, labels) for ids and mask (rows, tokens)."""
        states = self.base(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = masked_mean(states, attention_mask)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (rows, width) of states (rows, tokens, width) where mask (rows, tokens) is 1; fp32 at least."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    kept = mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(1) / kept.sum(1).clamp(min=1)


def _readable_starts(texts: Sequence[str], length: int, processor: Any) -> Sequence[str]:
    """Return the starts of two long texts: as much as can be read of each, and a little more, so that no token changes.

    A fast tokenizer that cuts two texts at once keeps all pieces that it cuts off, in every combination: for two
    documents of 20,000 words that takes half a minute.
    """
    if not getattr(processor, "is_fast", False):
        return texts
    whole = {"add_special_tokens": False, "truncation": True, "return_offsets_mapping": True}
    read = [processor(text, max_length=len(text) + 1, **whole)["offset_mapping"] for text in texts]
    most, longest = length + _SLACK, max(map(len, read))
    # The longer text keeps one token more, so that it stays the longer one.
    kept = [most + (len(tokens) == longest) for tokens in read]
    parts = zip(texts, read, kept, strict=True)
    return [text[: tokens[:number][-1][1]] if tokens else text for text, tokens, number in parts]


def _head_dropout(config: Any) -> float:
    """Return the classifier's dropout, which has several names in transformers' configurations."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "dropout"):
        if (value := getattr(config, name, None)) is not None:
            return float(value)
    return 0.0


def without_pooler(config: Any) -> dict[str, Any]:
    """Return the argument that builds a base without its pooler, for the families that have one."""
    family = _family(type(config))
    knows = family is not None and "add_pooling_layer" in inspect.signature(family.__init__).parameters
    return {"add_pooling_layer": False} if knows else {}


def _with_pad_id(config: Any) -> dict[str, Any]:
    """Return a padding id for decoders without one: their classifier reads the last token that is not padding."""
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return {"pad_token_id": end} if own_pad_id(config) is None and isinstance(end, int) else {}


@lru_cache
def _knows_types(config: type, types: int | None) -> bool:
    """Return whether a base of that configuration separates two texts by `token_type_ids`.

    Tokenizers make them also for bases that do not take the argument (DistilBERT). They make them for bases with a
    single type too, whose table has no entry for the second text (RoBERTa).
    """
    family = _family(config)
    if family is None:
        return True
    return (types is None or types > 1) and "token_type_ids" in inspect.signature(family.forward).parameters


def _family(config: type) -> Any:
    """Return the bare model class of a configuration class, or None."""
    known: Mapping[type, Any] = MODEL_MAPPING
    family = known.get(config, None)
    return family[0] if isinstance(family, tuple) else family
