"""Text to text by an encoder and a decoder: what translation and summarization share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from regraft.contracts import Answer, Batch, Context, Example, Forward, Loader, Record, Row, Task, TextLengths
from regraft.contracts.findings import Findings, Table
from regraft.errors import Unsupported
from regraft.tasks.inputs.tokens import (
    length_read,
    lengths_of,
    longest_read,
    padded,
    refuse_length,
    refuse_unknown_ids,
    token_losses,
)
from regraft.tasks.outputs.generation import generate
from regraft.units import with_article

WRAPPING = frozenset({"mbart", "plbart", "fsmt"})
"""Families whose decoder starts with the target's last token (a language code), not with a fixed token."""
GLOBAL = frozenset({"led"})
"""Families with local attention, where only marked tokens attend globally: the first one, as in their papers."""
BUCKETS = 4
"""Number of groups of rows by the length of their text, in the findings."""


@dataclass(frozen=True, slots=True)
class EvaluationOutput:
    """The model's outputs on one batch of an evaluation."""

    logits: Tensor
    """(rows, target tokens, vocabulary): each token is predicted from the reference's earlier tokens."""
    texts: Mapping[int, str]
    """Generated texts by position in the batch; rows beyond `eval_samples` are absent."""


class Seq2Seq(Task):
    """A task that maps a text to another, but for its columns and scores, which members define."""

    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    modality: ClassVar[str] = "text"
    supports: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "bucketing"})
    text_column: ClassVar[str]
    """The column with the text that the encoder reads."""
    reference_column: ClassVar[str]
    """The column with the references: texts that are right answers."""
    answer_key: ClassVar[str]
    """Key of the generated text in an answer."""
    default_lengths: ClassVar[tuple[int, int]]
    """Tokens of a text and of a target where the fields are null."""

    prefix: str = ""
    """Text put before every input, its trailing blank included: T5's instruction ("translate English to German: "), or
    the target language for multilingual Marian models (">>fra<< ")."""
    source_language: str | None = None
    """The text's language as the base's tokenizer spells it (mBART en_XX, NLLB eng_Latn, M2M100 en); needed for
    tokenizers that know languages, refused for others."""
    target_language: str | None = None
    """The language of the output, spelled the same way."""
    max_length: int | None = Field(None, ge=3)
    """Tokens of a text that are read, prefix included; null is what the base can read, at most 256 in translation and
    1024 in summarization."""
    max_target_length: int | None = Field(None, ge=3)
    """Tokens of a target that are learned from, and the most that are generated; null is what the base can generate, at
    most 256 in translation and 128 in summarization."""
    min_target_length: int | None = Field(None, ge=0)
    """The fewest tokens that are generated; null keeps the value of the base's generation configuration."""
    beams: int | None = Field(None, ge=1)
    """Beams of the beam search, 1 for greedy decoding; null keeps the value of the base's generation configuration."""
    length_penalty: float | None = None
    """Exponent of the length by which a beam's score is divided: above 0 favours long texts; null keeps the base's
    value."""
    no_repeat: int | None = Field(None, ge=0)
    """Length of token sequences that may not be generated twice; 0 allows all, null keeps the base's value."""
    eval_samples: int | None = Field(None, ge=1)
    """Number of evaluation rows, from the first, for which texts are generated and scored; null for all. The loss is
    always that of all rows. Generation costs a forward pass per token, so a small number makes evaluation quick."""

    @abstractmethod
    def scores(self, records: Sequence[Record]) -> dict[str, float]:
        """Return the metrics of records with a generated text."""

    @abstractmethod
    def compared(self, text: str, references: Sequence[str]) -> dict[str, Any]:
        """Return what a record keeps of one generated text and its references; `error` is larger for worse."""

    def target_columns(self) -> frozenset[str]:
        """Return the column with the references."""
        return frozenset({self.reference_column})

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its own output layer; no layer is new.

        Raises Unsupported where the base cannot read max_length tokens, or where its decoder starts targets in a way
        that is not known here.
        """
        refuse_length(self.max_length, load.config)
        refuse_length(self.max_target_length, load.config, where="task.max_target_length")
        model = load(self.auto)
        _check_shift(model)
        return model

    def configure(self, model: nn.Module, context: Context) -> None:
        """Set the tokenizer's languages, and write the fields into the model's generation configuration.

        An exported model thus generates as this one does. Raises Unsupported for languages that the tokenizer lacks.
        """
        _set_languages(context.processor, self.source_language, self.target_language)
        start, *forced = self._beginning(context)
        settings: Any = model.generation_config
        settings.decoder_start_token_id = start
        if forced:
            settings.forced_bos_token_id = forced[0]
        # The number of new tokens, of which the first may be a forced one: as many as a target has in training.
        settings.max_length, settings.max_new_tokens = None, self._limits(context)[1]
        settings.do_sample, settings.temperature, settings.top_k, settings.top_p = False, None, None, None
        settings.use_cache = True
        if self.min_target_length is not None:
            settings.min_length, settings.min_new_tokens = None, self.min_target_length
        for name, value in (
            ("num_beams", self.beams),
            ("length_penalty", self.length_penalty),
            ("no_repeat_ngram_size", self.no_repeat),
        ):
            if value is not None:
                setattr(settings, name, value)

    def check(self, row: Row) -> str | None:
        """Refuse an empty text, or an empty reference."""
        if not row[self.text_column].strip():
            return f"{self.text_column} is empty: write a text, or leave the row out"
        if any(not text.strip() for text in row.get(self.reference_column) or ()):
            return f"{self.reference_column} is empty: write a text, or leave the row out"
        return None

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each text with its prefix, and of each first reference."""
        most_read, most_generated = self._limits(context)
        texts = [[self.prefix + row[self.text_column]] for row in rows]
        targets = [row[self.reference_column][0] for row in rows]
        counted = [
            len(_target_ids(text, context, None)) if 4 * len(text) + 16 > most_generated else 0 for text in targets
        ]
        setting = "task.max_target_length"
        references = TextLengths(self.reference_column, counted, most_generated, longest_read(context), setting)
        return [lengths_of(texts, most_read, context, what=self.text_column), references]

    def length(self, row: Row) -> int:
        """Return the characters of the text and of the first reference."""
        return len(row[self.text_column]) + len((row.get(self.reference_column) or ("",))[0])

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int; the first reference is the target.

        `decoder_input_ids` is the target shifted by one; without a target, the start of every target. `labels` holds
        `row`, `length` (tokens read), and `cut` (1 where the text fills max_length and may have been cut). If the row
        has references, it also holds `targets` (target tokens,) and all `references`.
        """
        most_read, most_generated = self._limits(context)
        text = self.prefix + row[self.text_column]
        example: Example = dict(context.processor(text, truncation=True, max_length=most_read))
        refuse_unknown_ids(example["input_ids"], row.get("row"), context)
        length = len(example["input_ids"])
        if context.config.model_type in GLOBAL:
            example["global_attention_mask"] = [1] + [0] * (length - 1)
        labels: dict[str, Any] = {"row": row["row"], "length": length, "cut": int(length >= most_read)}
        references = row.get(self.reference_column)
        if not references:
            return {**example, "decoder_input_ids": self._beginning(context), "labels": labels}
        ids = _target_ids(references[0], context, most_generated)
        labels |= {"targets": torch.tensor(ids), "references": list(references)}
        return {**example, "decoder_input_ids": [_start(ids, context), *ids[:-1]], "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), padded on the right to the longest row, and `labels`, one dict per row."""
        decoder = [{"input_ids": example["decoder_input_ids"]} for example in examples]
        texts = [{name: value for name, value in item.items() if name != "decoder_input_ids"} for item in examples]
        return {
            **padded(texts, context),
            "decoder_input_ids": padded(decoder, context)["input_ids"],
            "use_cache": False,  # a pass over all target tokens at once needs no cache
            "labels": [example["labels"] for example in examples],
        }

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy summed over target tokens, and their number."""
        losses, counted = token_losses(output.logits, batch, context)
        return losses.sum(), counted.sum().float()

    def eval_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> EvaluationOutput:
        """Return the logits given the reference, and the texts generated for the first rows."""
        logits = forward(batch).logits
        wanted = [
            position
            for position, item in enumerate(batch["labels"])
            if self.eval_samples is None or item["row"] < self.eval_samples
        ]
        texts = self._generated(model, batch, wanted, context)
        return EvaluationOutput(logits, dict(zip(wanted, texts, strict=True)))

    def predict_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> list[str]:
        """Return the text generated for each row."""
        return self._generated(model, batch, range(len(batch["labels"])), context)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row the loss and the number of target tokens, the references, the generated text (None beyond
        `eval_samples`), and what `compared` returns for them."""
        losses, counted = token_losses(output.logits, batch, context)
        found: list[Record] = []
        for position, (item, loss, weight) in enumerate(
            zip(batch["labels"], losses.sum(1).tolist(), counted.sum(1).tolist(), strict=True)
        ):
            text = output.texts.get(position)
            # A row without a generated text must not be among the worst rows.
            compared: dict[str, Any] = {"error": 0.0} if text is None else self.compared(text, item["references"])
            kept = {name: item[name] for name in ("references", "length", "cut")}
            found.append({**kept, "text": text, "loss": loss, "weight": weight, **compared})
        return found

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return the scores of the generated texts, in points of 100; `loss`, the mean over target tokens that training
        minimises; `cut`, the share of texts that fill max_length; `written`, the share of rows that were scored."""
        scored = [record for record in records if record["text"] is not None]
        return {
            **(self.scores(scored) if scored else {self.score.name: math.nan}),
            "loss": _mean_loss(records),
            "cut": sum(record["cut"] for record in records) / len(records),
            "written": len(scored) / len(records),
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return the scores by the length of the text that was read."""
        scored = sorted((record for record in records if record["text"] is not None), key=lambda item: item["length"])
        rows: list[tuple[str | int | float | None, ...]] = []
        for group in filter(None, _by_length(scored)):
            span = f"{group[0]['length']} to {group[-1]['length']}"
            rows.append((span, len(group), *self.scores(group).values(), _mean_loss(group), _length_ratio(group)))
        columns = ("tokens read", "rows", *(self.scores(scored) if scored else ()), "loss", "length")
        note = f"Texts were generated for {len(scored)} of {len(records)} rows. length: generated characters per "
        note += "character of the reference that is nearest in length."
        return Findings(tables=(Table("Scores by length of the text", columns, tuple(rows), note),))

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return the text under its key of the Hugging Face Inference API."""
        return [{self.answer_key: text} for text in output]

    def _limits(self, context: Context) -> tuple[int, int]:
        """Return the most tokens that are read, and the most that are generated."""
        text, target = self.default_lengths
        return length_read(self.max_length or text, context), length_read(self.max_target_length or target, context)

    def _generated(self, model: Any, batch: Batch, positions: Sequence[int], context: Context) -> list[str]:
        """Return the texts generated for the rows at those positions of a batch."""
        if not positions and not isinstance(model, FSDPModule):
            return []
        rows = list(positions) or [0]  # all ranks of a sharded model must generate, or some wait for ever
        read = {name: batch[name][rows] for name in batch if name not in ("labels", "decoder_input_ids", "use_cache")}
        ids = generate(model, read, context, max_new_tokens=self._limits(context)[1])
        texts = context.processor.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts[: len(positions)]]

    def _beginning(self, context: Context) -> list[int]:
        """Return what the decoder reads before any target: the start token, and a forced one, such as a language
        code."""
        ids = _target_ids("", context, None)
        ends = {context.config.eos_token_id, context.processor.eos_token_id, context.processor.sep_token_id}
        forced = list(takewhile(lambda token: token not in ends, ids))
        if len(forced) > 1:
            raise Unsupported(f"this tokenizer begins targets with {len(forced)} tokens: at most one is known", "base")
        return [_start(ids, context), *forced]


def _set_languages(processor: Any, source: str | None, target: str | None) -> None:
    """Set a tokenizer's languages. Raises Unsupported where it needs them, takes none, or lacks one of them."""
    written = {"task.source_language": source, "task.target_language": target}
    if not hasattr(processor, "src_lang"):
        for field, code in written.items():
            if code is not None:
                kind = type(processor).__name__
                message = (
                    f"{code!r} is written; {kind} knows no languages: remove it, and say the language in task.prefix"
                )
                raise Unsupported(message, where=field)
        return
    for field, code in written.items():
        if code is None:
            message = (
                f"{type(processor).__name__} needs to know the languages: write source_language and target_language"
            )
            raise Unsupported(message, where=field)
        codes = sorted(getattr(processor, "lang_code_to_id", None) or processor.all_special_tokens)
        if code not in codes:
            near = ", ".join(get_close_matches(code, codes, n=3, cutoff=0.0))
            message = f"{code!r} is written; that is not a language of {type(processor).__name__}. Nearest: {near}"
            raise Unsupported(message, where=field)
    processor.src_lang, processor.tgt_lang = source, target


def _check_shift(model: Any) -> None:
    """Raise Unsupported unless targets are shifted here as the model itself shifts them."""
    ask = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    start = getattr(model.config, "decoder_start_token_id", None)
    wraps = model.config.model_type in WRAPPING
    if start is None and not wraps:
        raise Unsupported("its configuration names no decoder_start_token_id: add the token that targets begin with")
    if ask is None:
        return
    ids = [5, 6, 7]
    if ask(labels=torch.tensor([ids])).tolist() != [[ids[-1] if wraps else start, *ids[:-1]]]:
        raise Unsupported(
            f"the decoder of {with_article(type(model).__name__)} begins targets in a way that is not known", "base"
        )


def _start(ids: Sequence[int], context: Context) -> int:
    """Return the token with which the decoder starts a target of those ids."""
    wraps = context.config.model_type in WRAPPING
    return int(ids[-1] if wraps else context.config.decoder_start_token_id)


def _target_ids(text: str, context: Context, most: int | None) -> list[int]:
    """Return a target's tokens, with those that the tokenizer puts before and after it."""
    limit = {} if most is None else {"truncation": True, "max_length": most}
    return [int(token) for token in context.processor(text_target=text, verbose=False, **limit)["input_ids"]]


def matches(metric: Any, text: str, references: Sequence[str]) -> list[int]:
    """Return a sacreBLEU metric's counts for one text; the score of many texts follows from the sum of their counts.

    Records keep them, so that the thousand resamples of an interval cost sums, not a thousand comparisons. The method
    serves sacreBLEU's own statistical tests and is not public.
    """
    (counts,) = metric._extract_corpus_statistics([text], [[reference] for reference in references])
    return [int(count) for count in counts]


def score_of(metric: Any, counts: Sequence[Sequence[int]]) -> float:
    """Return the metric's score, 0 to 100, for texts with these `matches`."""
    return float(metric._compute_score_from_stats(np.sum(counts, axis=0).tolist()).score)


def _mean_loss(records: Sequence[Record]) -> float:
    return float(sum(record["loss"] for record in records) / sum(record["weight"] for record in records))


def _by_length(records: Sequence[Record]) -> list[list[Record]]:
    """Return records in order of length as groups of about equal size; rows of one length share a group."""
    lengths = np.array([record["length"] for record in records])
    edges = np.unique(np.quantile(lengths, np.arange(1, BUCKETS) / BUCKETS)) if len(lengths) else lengths
    group = np.searchsorted(edges, lengths, side="left")
    return [[record for record, at in zip(records, group, strict=True) if at == number] for number in range(BUCKETS)]


def _length_ratio(records: Sequence[Record]) -> float:
    """Return generated characters per character of the reference that is nearest in length."""
    pairs = [(len(record["text"]), [len(text) for text in record["references"]]) for record in records]
    return sum(made for made, _ in pairs) / sum(min(wanted, key=lambda n: abs(n - made)) for made, wanted in pairs)
