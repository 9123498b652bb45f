"""Token classification: named entities as tags of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import (
    Answer,
    ApiForm,
    Ask,
    BadCell,
    Batch,
    Context,
    Example,
    Kind,
    Loader,
    OtherForm,
    Record,
    Row,
    Score,
    Task,
    TextLengths,
    entities_form,
)
from regraft.contracts.findings import Findings
from regraft.errors import Unsupported
from regraft.tasks.inputs.tag_schemes import WrongTags, iob2_problem, to_iob2
from regraft.tasks.inputs.tokens import (
    IGNORED,
    length_read,
    lengths_of,
    padded,
    refuse_length,
    refuse_unknown_ids,
    token_losses,
)
from regraft.tasks.inputs.word_cut import Span, WordRule, as_text, words_of
from regraft.tasks.metrics.entities import OUTSIDE, counts, entities, findings, scores
from regraft.tasks.metrics.tags import tag_counts, tag_findings, tag_scores
from regraft.tasks.outputs.single_label import output_of

UNREAD = -1
"""First token of a word that was cut off, or of which the tokenizer keeps nothing."""

Array = np.ndarray[Any, np.dtype[Any]]


class TokenClassification(Task):
    """A tag for each word: named entities (IOB2; Ramshaw and Marcus, 1995), or with `scheme: plain` parts of speech.

    A word's tag is predicted at its first token. Words beyond `max_length` count as O, so that cutting lowers the
    metrics; `unread` is the share of words that were cut off. A plain text in place of words is cut into words as the
    training rows have them (`words`), and asked as those words are; answers have character offsets in the given text.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"ner", "named-entity-recognition", "pos", "pos-tagging", "chunking", "sequence-labeling", "sequence-tagging"}
    )
    auto: ClassVar[str] = "AutoModelForTokenClassification"
    modality: ClassVar[str] = "text"
    score: ClassVar[Score] = Score("f1", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"tokens": "words", "tags": "tags"}
    supports: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "bucketing"})
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"scheme": "plain"})
    later: ClassVar[frozenset[str]] = frozenset({"scheme", "words"})
    answer_fields: ClassVar[frozenset[str]] = frozenset({"words"})

    max_length: int | None = Field(None, ge=3)
    """Tokens of a text that are read; null is what the base can read, at most 256."""
    scheme: Literal["iob2", "iob1", "bioes", "bilou", "io", "plain"] = "iob2"
    """How the rows' tags mark entities: iob2, iob1, bioes (IOBES, BMES), bilou (BILUO), io; all are turned into iob2,
    in which labels and answers are. plain: tags are no spans; the score is the mean F1 of tags, and each word is
    answered with its tag."""
    words: WordRule | None = None
    """How a plain text is cut into words, {cut: blanks | punctuation | characters, inner: "-'", ...}; null is taken
    from the training rows."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with a linear layer on each token.

        Raises Unsupported where the base cannot read max_length tokens.
        """
        refuse_length(self.max_length, load.config)
        return load(self.auto, labels=labels)

    def fit_to_sample(self, rows: Iterable[Row]) -> Self:
        """Return the task with `words` as the training rows have them, unless it is written."""
        if self.words is not None:
            return self
        return self.model_copy(update={"words": WordRule.of_words(row["tokens"] for row in rows)})

    def convert(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with its tags in IOB2. Raises BadCell for tags that do not follow the scheme."""
        if self.scheme == "plain" or self.scheme == "iob2" or len(row["tags"]) != len(row["tokens"]):
            return row
        try:
            return {**row, "tags": to_iob2(row["tags"], self.scheme)}
        except WrongTags as error:
            raise BadCell(f"tags: {error}") from None

    def check(self, row: Row) -> str | None:
        """Refuse rows without words, empty words, a number of tags other than that of words, and tags that are not
        IOB2, unless they are plain.
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
        return None if self.scheme == "plain" else iob2_problem(tags)

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each text."""
        texts = [[_laid_out(row["tokens"], None)[0]] for row in rows]
        return [lengths_of(texts, length_read(self.max_length, context), context)]

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
        text, spans, given, places = _laid_out(row["tokens"], self.words)
        length = length_read(self.max_length, context)
        example: Example = dict(
            context.processor(text, truncation=True, max_length=length, return_offsets_mapping=True)
        )
        refuse_unknown_ids(example["input_ids"], row.get("row"), context)
        firsts = first_tokens(example.pop("offset_mapping"), spans)
        labels: dict[str, Any] = {"text": given, "spans": torch.tensor(places), "firsts": torch.tensor(firsts)}
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
        record = _plain_record if self.scheme == "plain" else _record
        return [
            record(item["tags"].cpu().numpy(), predicted, loss, weight=weight, context=context)
            for item, (predicted, _), loss, weight in rows
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return precision, recall and F1 of entities, accuracy of words, the training loss, and `unread`.

        An entity is right if its type and both ends are. Those of plain tags are means over the tags that occur.
        `unread` is the share of words that were cut off.
        """
        words = sum(len(record["true"]) for record in records)
        weight = sum(record["weight"] for record in records)
        counted = [record["counts"] for record in records]
        return {
            **(tag_scores(counted) if self.scheme == "plain" else scores(counted)),
            "accuracy": sum(record["right"] for record in records) / words,
            "loss": sum(record["loss"] for record in records) / weight if weight else 0.0,
            "unread": sum(int((record["predicted"] == UNREAD).sum()) for record in records) / words,
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return scores and support by type, scores under laxer matching of ends and types, and a confusion matrix.

        For plain tags, return scores by tag and a confusion matrix.
        """
        if self.scheme == "plain":
            return tag_findings([(record["true"], record["predicted"]) for record in records], context.labels)
        pairs = [(_names(record["true"], context), _names(record["predicted"], context)) for record in records]
        return findings(pairs, context.labels)

    def api_form(self) -> ApiForm:
        """Return the form of entities."""
        return entities_form()

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `entities` in the order of the text: entity_group, score (mean over its words), word, start, end.

        start and end count characters of the given string, or of the given words joined by blanks. Plain tags are
        answered word by word.
        """
        answers: list[Answer] = []
        for item, (predicted, sure) in zip(batch["labels"], _read(output, batch), strict=True):
            spans, text = item["spans"].tolist(), item["text"]
            found = []
            for label, first, last in self._marked(predicted, context):
                start, end = spans[first][0], spans[last][1]
                score = float(sure[first : last + 1].mean())
                found.append(
                    {"entity_group": label, "score": score, "word": text[start:end], "start": start, "end": end}
                )
            answers.append({"entities": found})
        return answers

    def other_form(self, rows: Iterable[Row], ask: Ask) -> OtherForm | None:
        """Return the scores of the same sentences as plain texts, punctuation written as people do."""
        texts, truths, read = [], [], []
        for number, row in enumerate(rows):
            text, places = as_text(row["tokens"])
            texts.append({"row": number, "tokens": text})
            truths.append(
                {(places[first][0], places[last][1], label) for label, first, last in self._spans(row["tags"])}
            )
            read.append((self.words or WordRule()).spans(text) == places)
        counted = []
        for truth, answer in zip(truths, ask(texts), strict=True):
            found = {(item["start"], item["end"], item["entity_group"]) for item in answer["entities"]}
            counted.append((len(truth & found), len(found), len(truth)))
        found_scores = scores(counted)
        note = f"asked with the same sentences as plain text: f1 {found_scores['f1']:.4f}; "
        note += f"{sum(read):,} of {len(read):,} texts are cut into the words of their rows"
        return OtherForm("plain text", {**found_scores, "same_words": sum(read) / len(read)}, note)

    def _marked(self, predicted: Array, context: Context) -> list[tuple[str, int, int]]:
        """Return type, first and last word of each predicted entity; for plain tags, each word that was read."""
        if self.scheme == "plain":
            tags = enumerate(predicted.tolist())
            return [(context.labels[tag], at, at) for at, tag in tags if tag != UNREAD]
        return self._spans(_names(predicted, context))

    def _spans(self, tags: Sequence[str]) -> list[tuple[str, int, int]]:
        """Return type, first and last word of each entity of those tags."""
        if self.scheme == "plain":
            return [(tag, at, at) for at, tag in enumerate(tags)]
        return [(entity.label, entity.start, entity.end) for entity in entities(list(tags))]


def _laid_out(tokens: str | Sequence[str], rule: WordRule | None) -> tuple[str, list[Span], str, list[Span]]:
    """Return the text that is read with the span of each word in it, then the given text with theirs.

    A given string is read as its words joined by blanks, as rows with words are: a tokenizer may encode a word that
    follows a bracket otherwise than one that follows a blank.
    """
    if not isinstance(tokens, str):
        text, spans = words_in_text(tokens)
        return text, spans, text, spans
    places = (rule or WordRule()).spans(tokens)
    return *words_in_text(words_of(tokens, places)), tokens, places


def words_in_text(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Return words joined by one blank, and the span of each."""
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


def _plain_record(true: Array, predicted: Array, loss: float, *, weight: float, context: Context) -> Record:
    """Return a row's record where tags are no spans: `error` is the number of wrong words, with the loss."""
    right = int((true == predicted).sum())
    return {
        "true": true,
        "predicted": predicted,
        "right": right,
        "counts": tag_counts(true, predicted, len(context.labels)),
        "loss": loss,
        "weight": weight,
        "error": len(true) - right + (loss / (1 + loss) if right < len(true) else 0.0),
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
