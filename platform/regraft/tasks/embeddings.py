"""Embeddings of texts: a vector for each text, near for texts that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from regraft.contracts import ApiForm, Batch, Context, Example, Kind, Loader, Row, TextLengths, embedding_form
from regraft.errors import Unsupported
from regraft.tasks.inputs.content_keys import text_key
from regraft.tasks.inputs.pooled_encoder import PooledEncoder
from regraft.tasks.inputs.text import without_pooler, without_unread_types
from regraft.tasks.inputs.tokens import length_read, lengths_of, padded, refuse_length, refuse_unknown_ids
from regraft.tasks.outputs.embedding import Embedding


class Embeddings(Embedding):
    """A vector of length 1 for each text, to search and compare texts by cosine.

    Rows are pairs of texts that belong together (question and answer, summary and document), triplets, or pairs with a
    score. The base is pooled as its sentence-transformers files say, and has no head: write a method that moves the
    base. All rows of a step are compared, on all workers and in all micro-batches: larger steps teach more. Equal
    texts of a step are never negatives of one another. Exports are folders that sentence-transformers loads.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {
            "feature-extraction",
            "sentence-embeddings",
            "sentence-embedding",
            "text-embeddings",
            "text-embedding",
            "sentence-transformers",
            "semantic-search",
            "retrieval",
            "contrastive-learning",
            "metric-learning",
        }
    )
    auto: ClassVar[str] = "AutoModel"
    modality: ClassVar[str] = "text"
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text", "pair": "text"}
    supports: ClassVar[frozenset[str]] = frozenset({"bucketing"})
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rows": "triplets"}, {"rows": "graded"}, {})

    max_length: int | None = Field(None, ge=2)
    """Tokens of a text that are read; null is what the base can read, at most 256."""
    pooling: Literal["auto", "cls", "mean"] = "auto"
    """What a vector is made of: the mean over all tokens, or the first token (cls); auto is what the base's
    sentence-transformers files say, else mean."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its pooling.

        Raises Unsupported for a base with a decoder of its own, where the base cannot read max_length tokens, and where
        the base's own vectors are made otherwise and no pooling is written.
        """
        refuse_length(self.max_length, load.config)
        if getattr(load.config, "is_encoder_decoder", False):
            kind = load.config.model_type
            raise Unsupported(
                f"a base of type {kind} has an encoder and a decoder: name an encoder, such as BERT", where="base"
            )
        if self.pooling == "auto" and load.pooling_problem:
            raise Unsupported(
                f"the base makes its vectors otherwise: {load.pooling_problem}. Write pooling: mean, or cls, to train "
                "its states pooled so, without that",
                where="task.pooling",
            )
        chosen = self.pooling if self.pooling != "auto" else load.pooling
        return PooledEncoder(load(self.auto, **without_pooler(load.config)), "cls" if chosen == "cls" else "mean")

    def check(self, row: Row) -> str | None:
        """Refuse a text without a visible character."""
        for name in self.compared():
            if name in row and not row[name].strip():
                return f"{name} is empty: write one, or leave the row out"
        return super().check(row)

    def key_of(self, value: Any) -> int:
        """Return a number that equal texts share."""
        return text_key(value)

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each column of texts."""
        limit = length_read(self.max_length, context)
        return [lengths_of([[row[name]] for row in rows], limit, context, what=name) for name in self.compared()]

    def length(self, row: Row) -> int:
        """Return the characters of a row's longest text, to which the others are padded."""
        return max(len(row[name]) for name in self.compared() if name in row)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as a list of int; as a list for each text, and `labels`, where the row has its pair."""
        labels = self.keys_of(row)
        if labels is None:
            return self._encoded(row[self.asked()], row, context)
        texts = [self._encoded(row[name], row, context) for name in self.compared()]
        return {**{name: [text[name] for text in texts] for name in texts[0]}, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), or (rows, texts, tokens) for rows with their pairs; padded on the right."""
        if "labels" not in examples[0]:
            return padded(examples, context)
        names, texts = [name for name in examples[0] if name != "labels"], len(examples[0]["input_ids"])
        flat = [{name: example[name][place] for name in names} for example in examples for place in range(texts)]
        batch = {name: value.unflatten(0, (-1, texts)) for name, value in padded(flat, context).items()}
        return self.with_keys(batch, [example.get("labels") for example in examples])

    def api_form(self) -> ApiForm:
        """Return the form of feature extraction, which answers sentence similarity too."""
        return embedding_form(self.sizes)

    def _encoded(self, text: str, row: Row, context: Context) -> Example:
        """Return one text as the base reads it."""
        length = length_read(self.max_length, context)
        found: Example = dict(context.processor(text, truncation=True, max_length=length))
        refuse_unknown_ids(found["input_ids"], row.get("row"), context)
        return without_unread_types(found, context)
