"""What translation and summarization share: a text is read by an encoder, another is written by a decoder."""

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

from regraft.contracts import Answer, Batch, Context, Example, Forward, Loader, Record, Row, Task
from regraft.contracts.findings import Findings, Table
from regraft.errors import Unsupported
from regraft.tasks.inputs.tokens import length_read, padded, refuse_length, token_losses
from regraft.tasks.outputs.generation import generate

"""Target of padding: torch's cross entropy passes it over."""
WRAPPING = frozenset({"mbart", "plbart", "fsmt"})
"""Families whose decoder begins with the target's own last token (a language code), not with one fixed token."""
GLOBAL = frozenset({"led"})
"""Families whose tokens see only their neighbours, but for those told to see all: the first, as in their papers."""
BUCKETS = 4
"""Groups of rows by the length of their text, in the findings."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What an evaluation asks of the model for one batch."""

    logits: Tensor
    """(rows, target tokens, vocabulary), each token predicted from the reference's before it."""
    texts: Mapping[int, str]
    """What the model wrote by itself, by position in the batch; rows beyond `eval_samples` are absent."""


class Seq2Seq(Task):
    """Most of a task that turns a text into another; a member names its columns and says how texts are compared."""

    auto: ClassVar[str] = "AutoModelForSeq2SeqLM"
    modality: ClassVar[str] = "text"
    supports: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "bucketing"})
    reads_column: ClassVar[str]
    """The column with the text that is read."""
    writes_column: ClassVar[str]
    """The column with the texts that are right answers."""
    answer_key: ClassVar[str]
    """What the text is called in an answer."""
    usual: ClassVar[tuple[int, int]]
    """Tokens of a text and of a target, where the fields do not say."""

    prefix: str = ""
    """Put before every text, its own blank included, as T5 was taught ("translate English to German: ") and as Marian's
    models of several languages are told one (">>fra<< ")."""
    source_language: str | None = None
    """The text's language as the base's tokenizer spells it (mBART en_XX, NLLB eng_Latn, M2M100 en); needed by
    tokenizers that know languages, refused by others."""
    target_language: str | None = None
    """The language to write in, spelled the same way."""
    max_length: int | None = Field(None, ge=3)
    """Tokens of a text that are read, prefix included; null is what the base can read, at most 256 in translation and
    1024 in summarization."""
    max_target_length: int | None = Field(None, ge=3)
    """Tokens of a target that are learned from, and the most that are written; null is what the base can write, at most
    256 in translation and 128 in summarization."""
    min_target_length: int | None = Field(None, ge=0)
    """The fewest tokens that are written; null keeps what the base's generation configuration says."""
    beams: int | None = Field(None, ge=1)
    """Beams of the search for a likely text, 1 for greedy; null keeps what the base's generation configuration says."""
    length_penalty: float | None = None
    """Exponent of the length by which a beam's score is divided: above 0 favours long texts; null keeps the base's."""
    no_repeat: int | None = Field(None, ge=0)
    """No sequence of so many tokens is written twice; 0 allows it, null keeps what the base's configuration says."""
    eval_samples: int | None = Field(None, ge=1)
    """Texts are written, and scored, for so many evaluation rows, the first ones; null for all. The loss is always that
    of all rows. Writing costs a pass per token, so this is what makes evaluation quick."""

    @abstractmethod
    def scores(self, records: Sequence[Record]) -> dict[str, float]:
        """Metrics of records that hold a text of the model's."""

    @abstractmethod
    def compared(self, text: str, references: Sequence[str]) -> dict[str, Any]:
        """What a record keeps of one text beside its references; `error` is larger for worse."""

    def target_columns(self) -> frozenset[str]:
        """The column with right answers."""
        return frozenset({self.writes_column})

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """The base as it is: nothing is new, its output layer is the base's own. Unsupported where the base cannot read
        max_length, or its decoder begins otherwise than this module knows."""
        refuse_length(self.max_length, load.config)
        refuse_length(self.max_target_length, load.config, where="task.max_target_length")
        model = load(self.auto)
        _check_shift(model)
        return model

    def configure(self, model: nn.Module, context: Context) -> None:
        """Tell the tokenizer its languages, and write the fields into the model's generation configuration, so that an
        exported model writes as this one does."""
        _speak(context.processor, self.source_language, self.target_language)
        start, *forced = self._beginning(context)
        settings: Any = model.generation_config
        settings.decoder_start_token_id = start
        if forced:
            settings.forced_bos_token_id = forced[0]
        # Written as a number of new tokens, of which the first may be the forced one: as many as training can teach.
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
        """An empty text, or an empty reference."""
        if not row[self.reads_column].strip():
            return f"{self.reads_column} is empty: write a text, or leave the row out"
        if any(not text.strip() for text in row.get(self.writes_column) or ()):
            return f"{self.writes_column} is empty: write a text, or leave the row out"
        return None

    def length(self, row: Row) -> int:
        """Characters of the text and of the target that is learned from."""
        return len(row[self.reads_column]) + len((row.get(self.writes_column) or ("",))[0])

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Token ids as lists of int, not padded; the first reference is learned from, by what the decoder reads.

        `decoder_input_ids` is the target shifted by one; without a target it is what every target begins with.
        `labels` holds `row`, `length` (tokens read), `cut` (1 where the text fills max_length and so may have been cut)
        and, where the row has a target, `targets` (target tokens,) and `references`, all of them.
        """
        reads, writes = self._limits(context)
        text = self.prefix + row[self.reads_column]
        example: Example = dict(context.processor(text, truncation=True, max_length=reads))
        length = len(example["input_ids"])
        if context.config.model_type in GLOBAL:
            example["global_attention_mask"] = [1] + [0] * (length - 1)
        labels: dict[str, Any] = {"row": row["row"], "length": length, "cut": int(length >= reads)}
        references = row.get(self.writes_column)
        if not references:
            return {**example, "decoder_input_ids": self._beginning(context), "labels": labels}
        ids = _target_ids(references[0], context, writes)
        labels |= {"targets": torch.tensor(ids), "references": list(references)}
        return {**example, "decoder_input_ids": [_start(ids, context), *ids[:-1]], "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Tensors (rows, tokens), padded on the right to the longest; `labels`: one dict a row."""
        decoder = [{"input_ids": example["decoder_input_ids"]} for example in examples]
        texts = [{name: value for name, value in item.items() if name != "decoder_input_ids"} for item in examples]
        return {
            **padded(texts, context),
            "decoder_input_ids": padded(decoder, context)["input_ids"],
            "use_cache": False,  # keys and values of a whole target at once are remembered for nothing
            "labels": [example["labels"] for example in examples],
        }

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Cross entropy summed over target tokens, and their number."""
        losses, counted = token_losses(output.logits, batch, context)
        return losses.sum(), counted.sum().float()

    def eval_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Examined:
        """The logits given the reference, and the texts that the model writes by itself for the first rows."""
        logits = forward(batch).logits
        wanted = [
            position
            for position, item in enumerate(batch["labels"])
            if self.eval_samples is None or item["row"] < self.eval_samples
        ]
        texts = self._write(model, batch, wanted, context)
        return Examined(logits, dict(zip(wanted, texts, strict=True)))

    def predict_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> list[str]:
        """The text that the model writes for each row."""
        return self._write(model, batch, range(len(batch["labels"])), context)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """The row's loss and number of target tokens, its references, the model's text (None where none was asked for)
        and how the two compare."""
        losses, counted = token_losses(output.logits, batch, context)
        found: list[Record] = []
        for position, (item, loss, weight) in enumerate(
            zip(batch["labels"], losses.sum(1).tolist(), counted.sum(1).tolist(), strict=True)
        ):
            text = output.texts.get(position)
            # A row without a text of the model's is not looked at, so it is never among the worst.
            compared: dict[str, Any] = {"error": 0.0} if text is None else self.compared(text, item["references"])
            kept = {name: item[name] for name in ("references", "length", "cut")}
            found.append({**kept, "text": text, "loss": loss, "weight": weight, **compared})
        return found

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """The scores of the texts written, in points of 100; `loss`, the mean over target tokens that training
        minimises; `cut`, the share of texts that fill max_length; `written`, the share of rows that were scored."""
        scored = [record for record in records if record["text"] is not None]
        return {
            **(self.scores(scored) if scored else {self.score.name: math.nan}),
            "loss": _mean_loss(records),
            "cut": sum(record["cut"] for record in records) / len(records),
            "written": len(scored) / len(records),
        }

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """The scores by the length of the text that was read."""
        scored = sorted((record for record in records if record["text"] is not None), key=lambda item: item["length"])
        rows: list[tuple[str | int | float | None, ...]] = []
        for group in filter(None, _by_length(scored)):
            span = f"{group[0]['length']} to {group[-1]['length']}"
            rows.append((span, len(group), *self.scores(group).values(), _mean_loss(group), _length_ratio(group)))
        columns = ("tokens read", "rows", *(self.scores(scored) if scored else ()), "loss", "length")
        note = f"Texts were written for {len(scored)} of {len(records)} rows. length: characters written for each "
        note += "character of the reference that is nearest in length."
        return Findings(tables=(Table("Scores by length of the text", columns, tuple(rows), note),))

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """The text, under the key that the Hugging Face Inference API gives it."""
        return [{self.answer_key: text} for text in output]

    def _limits(self, context: Context) -> tuple[int, int]:
        """Tokens that are read and written at most."""
        reads, writes = self.usual
        return length_read(self.max_length or reads, context), length_read(self.max_target_length or writes, context)

    def _write(self, model: Any, batch: Batch, positions: Sequence[int], context: Context) -> list[str]:
        """What the model writes for those rows of a batch."""
        if not positions and not isinstance(model, FSDPModule):
            return []
        rows = list(positions) or [0]  # ranks of a sharded model write together, or wait for ever
        read = {name: batch[name][rows] for name in batch if name not in ("labels", "decoder_input_ids", "use_cache")}
        ids = generate(model, read, context, max_new_tokens=self._limits(context)[1])
        texts = context.processor.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts[: len(positions)]]

    def _beginning(self, context: Context) -> list[int]:
        """What the decoder reads before the first word of any target: the start, and a language code or the like."""
        ids = _target_ids("", context, None)
        ends = {context.config.eos_token_id, context.processor.eos_token_id, context.processor.sep_token_id}
        forced = list(takewhile(lambda token: token not in ends, ids))
        if len(forced) > 1:
            raise Unsupported(f"this tokenizer begins targets with {len(forced)} tokens: at most one is known", "base")
        return [_start(ids, context), *forced]


def _speak(processor: Any, source: str | None, target: str | None) -> None:
    """Set a tokenizer's languages; Unsupported when it needs them, has none, or does not know one."""
    written = {"task.source_language": source, "task.target_language": target}
    if not hasattr(processor, "src_lang"):
        for field, code in written.items():
            if code is not None:
                kind = type(processor).__name__
                told = f"{code!r} is written; {kind} knows no languages: remove it, and say the language in task.prefix"
                raise Unsupported(told, where=field)
        return
    for field, code in written.items():
        if code is None:
            told = f"{type(processor).__name__} needs to know the languages: write source_language and target_language"
            raise Unsupported(told, where=field)
        codes = sorted(getattr(processor, "lang_code_to_id", None) or processor.all_special_tokens)
        if code not in codes:
            near = ", ".join(get_close_matches(code, codes, n=3, cutoff=0.0))
            told = f"{code!r} is written; that is no language of {type(processor).__name__}. Nearest: {near}"
            raise Unsupported(told, where=field)
    processor.src_lang, processor.tgt_lang = source, target


def _check_shift(model: Any) -> None:
    """Compare how targets are shifted here with what the model itself does where it is asked to; Unsupported if not."""
    ask = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    start = getattr(model.config, "decoder_start_token_id", None)
    wraps = model.config.model_type in WRAPPING
    if start is None and not wraps:
        raise Unsupported("its configuration names no decoder_start_token_id: add the token that targets begin with")
    if ask is None:
        return
    ids = [5, 6, 7]
    if ask(labels=torch.tensor([ids])).tolist() != [[ids[-1] if wraps else start, *ids[:-1]]]:
        raise Unsupported(f"the decoder of a {type(model).__name__} begins targets in a way that is not known", "base")


def _start(ids: Sequence[int], context: Context) -> int:
    wraps = context.config.model_type in WRAPPING
    return int(ids[-1] if wraps else context.config.decoder_start_token_id)


def _target_ids(text: str, context: Context, most: int | None) -> list[int]:
    """A target's tokens, with whatever the tokenizer puts before and after it."""
    limit = {} if most is None else {"truncation": True, "max_length": most}
    return [int(token) for token in context.processor(text_target=text, **limit)["input_ids"]]


def matches(metric: Any, text: str, references: Sequence[str]) -> list[int]:
    """What one of sacreBLEU's metrics counts in one text: scores of many texts follow from the counts' sum.

    Kept with each row, so that the thousand resamples of an interval cost sums and not a thousand comparisons. The
    names are sacreBLEU's own for its statistical tests, and not public.
    """
    (counts,) = metric._extract_corpus_statistics([text], [[reference] for reference in references])
    return [int(count) for count in counts]


def score_of(metric: Any, counts: Sequence[Sequence[int]]) -> float:
    """The metric's score, 0 to 100, of texts whose `matches` these are."""
    return float(metric._compute_score_from_stats(np.sum(counts, axis=0).tolist()).score)


def _mean_loss(records: Sequence[Record]) -> float:
    return float(sum(record["loss"] for record in records) / sum(record["weight"] for record in records))


def _by_length(records: Sequence[Record]) -> list[list[Record]]:
    """Records in order of length as groups of about equal size; rows of one length are in one group."""
    lengths = np.array([record["length"] for record in records])
    edges = np.unique(np.quantile(lengths, np.arange(1, BUCKETS) / BUCKETS)) if len(lengths) else lengths
    group = np.searchsorted(edges, lengths, side="left")
    return [[record for record, at in zip(records, group, strict=True) if at == number] for number in range(BUCKETS)]


def _length_ratio(records: Sequence[Record]) -> float:
    """Characters written for each of the references'; of several references the nearest in length counts."""
    pairs = [(len(record["text"]), [len(text) for text in record["references"]]) for record in records]
    return sum(made for made, _ in pairs) / sum(min(wanted, key=lambda n: abs(n - made)) for made, wanted in pairs)
