"""Token classification: named entities as tags of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import (
    Answer,
    ApiForm,
    Batch,
    Context,
    Example,
    Kind,
    Loader,
    Record,
    Row,
    Score,
    Task,
    entities_form,
)
from regraft.contracts.findings import Findings
from regraft.errors import Unsupported
from regraft.tasks.inputs.tokens import IGNORED, length_read, padded, refuse_length, token_losses
from regraft.tasks.metrics.entities import OUTSIDE, counts, entities, findings, scores
from regraft.tasks.outputs.single_label import output_of

UNREAD = -1
"""First token of a word that was cut off, or of which the tokenizer keeps nothing."""

Array = np.ndarray[Any, np.dtype[Any]]


class TokenClassification(Task):
    """One IOB2 tag for each word (Ramshaw and Marcus, 1995; Tjong Kim Sang and Veenstra, 1999): named entities.

    A word's tag is predicted at its first token. Words beyond `max_length` count as O, so that cutting lowers the
    metrics; `unread` is the share of words that were cut off.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"ner", "named-entity-recognition", "pos", "pos-tagging", "chunking", "sequence-labeling", "sequence-tagging"}
    )
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    modality: ClassVar[str] = "text"
    score: ClassVar[Score] = Score("f1", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"tokens": "words", "tags": "tags"}
    supports: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "bucketing"})

    max_length: int | None = Field(None, ge=3)
    """Tokens of a text that are read; null is what the base can read, at most 256."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with a linear layer on each token.

        Raises Unsupported where the base cannot read max_length tokens.
        """
        refuse_length(self.max_length, load.config)
        return load(self.auto, labels=labels)

    def check(self, row: Row) -> str | None:
        """Refuse rows without words, empty words, a number of tags other than that of words, and tags that are not
        IOB2.

        An I- that continues nothing is refused, not corrected: it may be a wrong tag, or another scheme (IOB1).
        """
        words: str | Sequence[str] = row["tokens"]
        if not words or (isinstance(words, str) and not words.strip()):
            return "tokens is empty: write words, or leave the row out"
        if not isinstance(words, str):
            for number, word in enumerate(words, 1):
                if not word.strip():
                    return f"word {number} is empty: write a word, or leave it and its tag out"
        tags: Sequence[str] | None = row.get("tags")
        if tags is None:
            return None
        if len(tags) != len(words):
            return f"{len(words)} words and {len(tags)} tags: there must be one tag a word"
        return _scheme_problem(tags)

    def length(self, row: Row) -> int:
        """Return the number of characters of the text."""
        words = row["tokens"]
        return len(words) if isinstance(words, str) else sum(map(len, words)) + len(words) - 1

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int, and `labels`, a dict that answers need too.

        `labels` holds `text`; `spans` (words, 2), the words' places in it; `firsts` (words,), each word's first token
        or -1; and where the row has tags `tags` (words,) and `targets` (tokens,), the tag's index at first tokens and
        -100 elsewhere. Raises Unsupported for a tokenizer without offsets.
        """
        if not getattr(context.processor, "is_fast", False):
            kind = type(context.processor).__name__
            raise Unsupported(
                f"{kind} does not report the positions of its tokens: a fast tokenizer is needed", where="base"
            )
        text, spans = words_in_text(row["tokens"])
        length = length_read(self.max_length, context)
        example: Example = dict(
            context.processor(text, truncation=True, max_length=length, return_offsets_mapping=True)
        )
        firsts = first_tokens(example.pop("offset_mapping"), spans)
        labels: dict[str, Any] = {"text": text, "spans": torch.tensor(spans), "firsts": torch.tensor(firsts)}
        if row.get("tags") is not None:
            labels["tags"] = torch.tensor([output_of(tag, row, context) for tag in row["tags"]])
            read = labels["firsts"] != UNREAD
            labels["targets"] = torch.full((len(example["input_ids"]),), IGNORED)
            labels["targets"][labels["firsts"][read]] = labels["tags"][read]
        return {**example, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), padded on the right to the longest row, and `labels`, one dict per row."""
        return {**padded(examples, context), "labels": [example["labels"] for example in examples]}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy summed over labelled words, and their number."""
        losses, labelled = token_losses(output.logits, batch, context)
        return losses.sum(), labelled.sum().float()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row the true and predicted tags (words,) as indices, -1 for words that were not read; `counts` of
        entities; the loss; and `error`, the number of entities missed or false, plus a fraction that grows with the
        loss.
        """
        losses, labelled = token_losses(output.logits, batch, context)
        rows = zip(batch["labels"], _read(output, batch), losses.sum(1).tolist(), labelled.sum(1).tolist(), strict=True)
        return [
            _record(item["tags"].cpu().numpy(), predicted, loss, weight=weight, context=context)
            for item, (predicted, _), loss, weight in rows
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return precision, recall and F1 of entities, accuracy of words, the training loss, and `unread`.

        An entity is right if its type and both ends are. `unread` is the share of words that were cut off.
        """
        words = sum(len(record["true"]) for record in records)
        weight = sum(record["weight"] for record in records)
        return {
            **scores([record["counts"] for record in records]),
            "accuracy": sum(record["right"] for record in records) / words,
            "loss": sum(record["loss"] for record in records) / weight if weight else 0.0,
            "unread": sum(int((record["predicted"] == UNREAD).sum()) for record in records) / words,
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return scores and support by type, scores under laxer matching of ends and types, and a confusion matrix."""
        pairs = [(_names(record["true"], context), _names(record["predicted"], context)) for record in records]
        return findings(pairs, context.labels)

    def api_form(self) -> ApiForm:
        """Return the form of entities."""
        return entities_form()

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `entities` in the order of the text: entity_group, score (mean over its words), word, start, end.

        start and end count characters of the given string, or of the given words joined by blanks.
        """
        answers: list[Answer] = []
        for item, (predicted, sure) in zip(batch["labels"], _read(output, batch), strict=True):
            spans, text = item["spans"].tolist(), item["text"]
            found = []
            for entity in entities(_names(predicted, context)):
                start, end = spans[entity.start][0], spans[entity.end][1]
                score = float(sure[entity.start : entity.end + 1].mean())
                found.append(
                    {"entity_group": entity.label, "score": score, "word": text[start:end], "start": start, "end": end}
                )
            answers.append({"entities": found})
        return answers


def words_in_text(words: str | Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a text and the span of each word: parts of a string between blanks, or words joined by one blank."""
    if isinstance(words, str):
        return words, [match.span() for match in re.finditer(r"\S+", words)]
    ends = list(accumulate((len(word) + 1 for word in words), initial=0))
    return " ".join(words), [(start, start + len(word)) for start, word in zip(ends, words, strict=False)]


def first_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the first token of each word, or -1, by the spans of tokens and words in the text.

    Special tokens have empty spans. Lists of words are not given to the tokenizer, since some refuse them and others
    encode them without the blanks of their training. A token that begins with the blank before a word is that word's.
    """
    firsts, word = [UNREAD] * len(spans), 0
    for token, (start, end) in enumerate(offsets):
        if start == end:
            continue
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        if word == len(spans):
            break
        if spans[word][0] < end and firsts[word] == UNREAD:
            firsts[word] = token
    return firsts


def _scheme_problem(tags: Sequence[str]) -> str | None:
    """Return why tags are not IOB2, or None."""
    before = OUTSIDE
    for number, tag in enumerate(tags, 1):
        if tag != OUTSIDE and not re.fullmatch(r"[BI]-.+", tag):
            return f"tag {number} is {tag!r}; IOB2 has O, B-<type> and I-<type>"
        if tag.startswith("I-") and before[1:] != tag[1:]:
            kind = tag[2:]
            return (
                f"tag {number} is {tag!r} after {before!r}; in IOB2 an entity begins with 'B-{kind}': correct the tag, "
                "or write data.format: {type: conll, scheme: iob1} if the whole file begins entities with I-"
            )
        before = tag
    return None


def _record(true: Array, predicted: Array, loss: float, *, weight: float, context: Context) -> Record:
    true_tags, predicted_tags = _names(true, context), _names(predicted, context)
    entity_counts = correct, found, existing = counts(true_tags, predicted_tags)
    return {
        "true": true,
        "predicted": predicted,
        "right": sum(tag == predicted_tag for tag, predicted_tag in zip(true_tags, predicted_tags, strict=True)),
        "counts": entity_counts,
        "loss": loss,
        "weight": weight,
        "error": existing + found - 2 * correct + (loss / (1 + loss) if correct < max(existing, found) else 0.0),
    }


def _read(output: Any, batch: Batch) -> list[tuple[Array, Array]]:
    """Return per row the most probable tags (words,), -1 for words that were not read, and their probabilities."""
    scores, best = output.logits.detach().float().softmax(-1).max(-1)
    found = []
    for item, score, tag in zip(batch["labels"], scores.cpu().numpy(), best.cpu().numpy(), strict=True):
        firsts = item["firsts"].cpu().numpy()
        read = firsts != UNREAD
        found.append((np.where(read, tag[firsts], UNREAD), np.where(read, score[firsts], 0.0)))
    return found


def _names(tags: Array, context: Context) -> list[str]:
    return [OUTSIDE if tag == UNREAD else context.labels[tag] for tag in tags.tolist()]
