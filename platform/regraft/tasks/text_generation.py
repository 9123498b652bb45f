"""Text generation: causal language modelling of texts, prompts with completions, and conversations."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from regraft.contracts import (
    Answer,
    ApiForm,
    Batch,
    Context,
    Example,
    Forward,
    Kind,
    Loader,
    Record,
    Row,
    Score,
    Task,
    TextLengths,
    text_form,
)
from regraft.contracts.findings import Curve, Findings, Table
from regraft.errors import DataError, Unsupported
from regraft.tasks.inputs.chat_template import ASSISTANT, Span, end_token_id, render_prompt, render_turns, template_of
from regraft.tasks.inputs.packing import Document, blocks, firsts_of, positions_in, refuse_leaks
from regraft.tasks.inputs.tokens import IGNORED, longest_read, padded, positions, refuse_length, refuse_unknown_ids
from regraft.tasks.outputs.generation import Sampling, end_ids, generate, left_padded

USUAL_BLOCK = 512
"""Most tokens of a block where `block_size` is null."""
LARGEST = 700.0
"""Nats per token beyond which a perplexity overflows a float."""

log = logging.getLogger(__name__)


class TextGeneration(Task):
    """Causal language modelling: each token is predicted from those before it, and answers are generated.

    `form` is the kind of row: a document (`text`), a `prompt` with its `completion`, or a conversation (`messages`).
    All tokens of a document count for the loss; of the other two, only those of completions and assistant turns.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"causal-lm", "language-modeling", "causal-language-modeling", "sft", "instruction-tuning", "chat", "llm"}
        | {"conversational"}
    )
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *({"form": form} for form in ("text", "completion", "chat")),
        {"form": "chat", "template": "plain"},
        {"form": "chat", "template": "plain", "max_new_tokens": 32},
    )
    auto: ClassVar[str] = "AutoModelForCausalLM"
    modality: ClassVar[str] = "text"
    score: ClassVar[Score] = Score("perplexity", "min", of_tokens=True)
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text"}
    supports: ClassVar[frozenset[str]] = frozenset({"bucketing"})

    form: Literal["text", "completion", "chat"] = "text"
    """Columns of a row: text (column text), completion (columns prompt and completion, joined without a separator), or
    chat (column messages: a list of {role, content})."""
    packing: bool = True
    """Put several rows into one block, without attention between them. Without packing, each row is padded to the
    longest of its batch and cut at block_size. Rows to predict are never packed."""
    block_size: int | None = Field(None, ge=2)
    """Tokens of a block; a longer row is cut into several. Null is what the tokenizer reads, at most 512."""
    template: str | None = None
    """Chat template (Jinja) in place of the tokenizer's own; plain is a simple one for bases without one."""
    max_new_tokens: int = Field(128, ge=1)
    """Most tokens of an answer; an end token of the model ends it earlier."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the most probable token; above, tokens are drawn, more evenly at higher values."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw only among the most probable tokens that together have this probability (Holtzman et al., 2020)."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the draws: equal prompts have equal answers, in any batch."""

    @property
    def packs(self) -> bool:  # type: ignore[override]
        """True if rows of the snapshot are blocks of packed rows."""
        return self.packing

    def input_columns(self) -> Mapping[str, Kind]:
        """Return the columns of `form`."""
        columns: dict[str, Mapping[str, Kind]] = {
            "text": {"text": "text"},
            "completion": {"prompt": "text", "completion": "text"},
            "chat": {"messages": "messages"},
        }
        return columns[self.form]

    def stored_columns(self) -> Mapping[str, Kind]:
        """Return the columns of a block where rows are packed: token ids, 1 where one counts, lengths of documents."""
        return {"ids": "tokens", "counts": "tokens", "documents": "tokens"} if self.packing else self.input_columns()

    def target_columns(self) -> frozenset[str]:
        """Return the completion; texts and conversations are continued, and have no target column."""
        return frozenset({"completion"} & set(self.input_columns()))

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its output layer.

        Raises Unsupported for a base with an encoder or with attention to later tokens, and for answers that are longer
        than the base can read.
        """
        if getattr(load.config, "is_encoder_decoder", False):
            # transformers would load the decoder alone, which was never trained without its encoder.
            message = f"a base of type {load.config.model_type} has an encoder and a decoder: write task translation or"
            raise Unsupported(f"{message} summarization, or a base that is a decoder alone", where="base")
        if (limit := positions(load.config)) is not None and self.max_new_tokens >= limit:
            message = f"answers of {self.max_new_tokens} tokens are wanted; this base reads {limit} with their prompt"
            raise Unsupported(f"{message}: write at most {limit - 1}", where="task.max_new_tokens")
        model = load(self.auto)
        refuse_leaks(model, packed=self.packing)
        return model

    def configure(self, model: nn.Module, context: Context) -> None:
        """Give the tokenizer the task's template, and the model the token that ends its turns; exports contain both.

        Raises Unsupported where a block has more tokens than the base reads, which not every tokenizer knows.
        """
        refuse_length(self._block(context.processor), context.config, where="task.block_size")
        if self.form != "chat":
            return
        context.processor.chat_template = template_of(self.template, context.processor)
        end = end_token_id(context.processor.chat_template, context.processor)
        settings: Any = getattr(model, "generation_config", None)
        if settings is not None and end is not None and end not in (known := end_ids(context, model)):
            settings.eos_token_id = [*known, end]

    def check(self, row: Row) -> str | None:
        """Refuse a row without a visible character, and a conversation without content or without a turn to answer."""
        if "messages" in row:
            return _conversation_problem(row["messages"])
        empty = next((name for name in self.input_columns() if name in row and not row[name].strip()), None)
        return f"{empty} is empty: write one, or leave the row out" if empty else None

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return the tokens of each row; none is cut where rows are packed."""
        if self.packing:
            return ()
        processor, limit = context.processor, longest_read(context)
        counts = [len(self._document(row, processor).ids) for row in rows]
        return [TextLengths("", counts, self._block(processor), limit, "task.block_size")]

    def length(self, row: Row) -> int:
        """Return the tokens of a block, or the characters of a row that is not packed."""
        if "ids" in row:
            return len(row["ids"])
        if "messages" in row:
            return sum(len(message["content"]) for message in row["messages"])
        return sum(len(row[name]) for name in self.input_columns() if name in row)

    def pack(self, rows: Iterable[Row], processor: Any) -> Iterator[dict[str, Any]]:
        """Yield blocks of at most block_size tokens; rows without a counting token are left out, and their number
        logged."""
        skipped = 0

        def documents() -> Iterator[Document]:
            nonlocal skipped
            for row in rows:
                try:
                    document = self._document(row, processor)
                except DataError as error:
                    raise DataError(error.message, where=f"row {row['row']}, of those that are kept") from error
                skipped += not any(document.counts)
                if any(document.counts):
                    yield document

        yield from blocks(documents(), self._block(processor))
        if skipped:
            log.warning("%d rows hold nothing to learn from (no answer of the assistant): they are left out", skipped)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int, and `labels`, a dict.

        `labels` holds `targets` (tokens,), -100 for tokens that do not count and for the first of each document; `cut`,
        the number of counting tokens beyond block_size; `row`; and, outside of training, `prompt` (tokens,), which is
        read before an answer is generated. A block has position_ids instead of an attention_mask: attention separates
        its documents by them.
        """
        processor, cut = context.processor, 0
        if "ids" in row:
            positions_or_mask: Example = {"position_ids": positions_in(row["documents"])}
            ids, counts, firsts = row["ids"], row["counts"], firsts_of(row["documents"])
        else:
            document, size = self._document(row, processor), self._block(processor)
            ids, counts, firsts, cut = document.ids[:size], document.counts[:size], [0], sum(document.counts[size:])
            positions_or_mask = {"attention_mask": [1] * len(ids)}
        refuse_unknown_ids(ids, row.get("row"), context)
        targets = torch.where(torch.tensor(counts, dtype=torch.bool), torch.tensor(ids), IGNORED)
        targets[firsts] = IGNORED
        labels: dict[str, Any] = {"targets": targets, "cut": cut, "row": row.get("row", 0)}
        if "ids" not in row and not train:
            labels["prompt"] = torch.tensor(self._prompt(row, context))
        return {"input_ids": list(ids), **positions_or_mask, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), padded on the right, and `labels`: targets, prompts, cuts and row numbers."""
        labels = [example["labels"] for example in examples]
        targets = pad_sequence([item["targets"] for item in labels], batch_first=True, padding_value=IGNORED)
        prompts = [item["prompt"] for item in labels if "prompt" in item]
        joined = {"targets": targets, "prompts": prompts, "cuts": [item["cut"] for item in labels]}
        joined["rows"] = [item["row"] for item in labels]
        # With a cache, transformers ignores that position_ids restart, and documents would attend to each other.
        return {**padded(examples, context), "use_cache": False, "labels": joined}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy summed over the tokens that count, and their number."""
        losses, _ = _token_losses(output.logits, batch["labels"]["targets"])
        return losses.sum(), losses.new_tensor(float(losses.numel()))

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row the summed loss, the counting tokens, how many more were cut off, and as `error` the mean
        loss."""
        targets = batch["labels"]["targets"]
        losses, rows = _token_losses(output.logits, targets)
        sums = torch.zeros(len(targets), dtype=torch.float64, device=losses.device).index_add(0, rows, losses.double())
        tokens = rows.bincount(minlength=len(targets))
        return [
            {"loss": loss, "tokens": count, "cut": cut, "error": loss / count if count else None}
            for loss, count, cut in zip(sums.tolist(), tokens.tolist(), batch["labels"]["cuts"], strict=True)
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return perplexity, the exponential of the mean loss over tokens; that loss; the number of counting tokens;
        and where rows are not packed `unread`, the share of tokens that were cut off.

        Raises DataError where no token counts.
        """
        tokens = sum(record["tokens"] for record in records)
        if not tokens:
            raise DataError("no token of the evaluation rows counts: they hold no answer of the assistant", "data.eval")
        loss = sum(record["loss"] for record in records) / tokens
        cut = sum(record["cut"] for record in records)
        unread = {} if self.packing else {"unread": cut / (tokens + cut)}
        return {"perplexity": math.exp(min(loss, LARGEST)), "loss": loss, "tokens": tokens, **unread}

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return the distribution of perplexity over rows, as quantiles and as a curve."""
        errors = sorted(record["error"] for record in records if record["tokens"])
        values = np.exp(np.minimum(errors, LARGEST))
        marks = {"best": 0, "a quarter": 25, "half": 50, "three quarters": 75, "19 of 20": 95, "worst": 100}
        rows = tuple((name, float(np.percentile(values, share))) for name, share in marks.items())
        steps = np.linspace(0, len(values) - 1, min(len(values), 200)).astype(int)
        points = tuple((float(values[step]), (int(step) + 1) / len(values)) for step in steps)
        note = "A row is a block of several documents." if self.packing else ""
        return Findings(
            tables=(Table("Perplexity of rows", ("share of rows", "perplexity is at most"), rows, note),),
            curves=(Curve("Rows up to a perplexity", "perplexity", "share of rows", points, note=note),),
        )

    def predict_forward(self, forward: Forward, model: nn.Module, batch: Batch, context: Context) -> Any:
        """Return `generated`: for each row its prompt and the model's continuation, both as token ids.

        Raises Unsupported for packed blocks, and DataError for a prompt that leaves no room for an answer.
        """
        prompts = batch["labels"]["prompts"]
        if not prompts:
            raise Unsupported("a block of several documents has no answer: predict from rows as the files hold them")
        for prompt, row in zip(prompts, batch["labels"]["rows"], strict=True):
            self._refuse_long(prompt, row, context)
        generated = generate(
            model,
            left_padded(prompts, context),
            context,
            max_new_tokens=self.max_new_tokens,
            sampling=Sampling(self.temperature, self.top_p, self.seed),
        )
        return SimpleNamespace(generated=[(p.tolist(), new) for p, new in zip(prompts, generated, strict=True)])

    def api_form(self) -> ApiForm:
        """Return the form of a generated text."""
        return text_form("text-generation", "generated_text")

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `generated_text`: the continuation without the prompt."""
        found = []
        for prompt, new in output.generated:
            # A tokenizer may drop a blank at the beginning of a text: new tokens are decoded after their prompt.
            before, whole = (_text(ids, context) for ids in (prompt, prompt + new))
            text = whole[len(before) :] if whole.startswith(before) else _text(new, context)
            found.append({"generated_text": text.strip() if self.form == "chat" else text})
        return found

    def _block(self, processor: Any) -> int:
        return self.block_size or min(USUAL_BLOCK, int(processor.model_max_length))

    def _document(self, row: Row, processor: Any) -> Document:
        """Return all tokens of a row, 1 for those that count, with the end-of-sequence token at its end."""
        end = processor.eos_token
        if self.form == "text":
            ids = _ids(row["text"], processor)
            counts = [1] * len(ids)
        elif self.form == "completion":
            text = row["prompt"] + row.get("completion", "")
            ids, counts = _counted(text, [(len(row["prompt"]), len(text))], processor)
        else:
            text, spans = render_turns(row["messages"], template_of(self.template, processor), processor)
            ids, counts = _counted(text, spans, processor, add_special_tokens=False)
            if text.rstrip().endswith(end or "") or row["messages"][-1]["role"] != ASSISTANT:
                end = None
        return Document(ids, counts) if end is None else Document([*ids, processor.eos_token_id], [*counts, 1])

    def _prompt(self, row: Row, context: Context) -> list[int]:
        """Return the tokens that are read before an answer; of a text, only its end, so that an answer has room."""
        if self.form == "text":
            room = self._room(context)
            return _ids(row["text"], context.processor)[-room:] if room else _ids(row["text"], context.processor)
        if self.form == "completion":
            prompt, known = _ids(row["prompt"], context.processor), "completion" in row
        else:
            text = render_prompt(row["messages"], template_of(self.template, context.processor), context.processor)
            prompt = _ids(text, context.processor, add_special_tokens=False)
            known = row["messages"][-1]["role"] == ASSISTANT
        if not known:  # a row with its answer is here to be evaluated
            self._refuse_long(prompt, row.get("row", 0), context)
        return prompt

    def _room(self, context: Context) -> int | None:
        """Return the most tokens of a prompt that leaves room for an answer; None without a limit."""
        limit = positions(context.config)
        return None if limit is None else limit - self.max_new_tokens

    def _refuse_long(self, prompt: Sequence[int] | Tensor, row: int, context: Context) -> None:
        room = self._room(context)
        if room is not None and len(prompt) > room:
            raise DataError(
                f"the prompt has {len(prompt)} tokens; this base reads {room} beside the {self.max_new_tokens} of an "
                "answer (task.max_new_tokens): shorten it",
                where=f"row {row}",
            )


def _ids(text: str, processor: Any, **settings: bool) -> list[int]:
    """Return the token ids of a text without the end-of-sequence token that some tokenizers add."""
    ids: list[int] = processor(text, verbose=False, **settings)["input_ids"]
    added = settings.get("add_special_tokens", True) and ids and ids[-1] == processor.eos_token_id
    return ids[:-1] if added else ids


def _counted(text: str, spans: Sequence[Span], processor: Any, **settings: bool) -> tuple[list[int], list[int]]:
    """Return token ids, and for each 1 where it begins in one of the spans of characters, else 0.

    A token that begins before a span is not predicted from the text before the span, so it does not count. The text is
    tokenised in one piece: tokenizers treat a word at the beginning of a text otherwise than within it.
    """
    if not getattr(processor, "is_fast", False):
        kind = type(processor).__name__
        raise Unsupported(
            f"{kind} does not report the positions of its tokens: a fast tokenizer is needed", where="base"
        )
    found = processor(text, return_offsets_mapping=True, verbose=False, **settings)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    if settings.get("add_special_tokens", True) and ids and ids[-1] == processor.eos_token_id:
        ids, offsets = ids[:-1], offsets[:-1]
    starts, ends = np.array(offsets, dtype=int).reshape(-1, 2).T
    inside = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        inside |= (starts >= start) & (starts < end) & (ends > starts)
    return ids, inside.astype(int).tolist()


def _text(ids: Sequence[int], context: Context) -> str:
    return str(context.processor.decode(ids, skip_special_tokens=True))


def _conversation_problem(messages: Sequence[Any]) -> str | None:
    """Return what is wrong with a conversation, or None."""
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            return f"message {number} is {message!r}; a message is {{role: ..., content: ...}}, both text"
    if all(message["role"] == ASSISTANT for message in messages):
        return "only the assistant speaks in this conversation: write what it answers, or leave the row out"
    if not any(message["content"].strip() for message in messages):
        return "all messages of this conversation are empty: write their content, or leave the row out"
    return None


def _token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each token that counts, in fp32, and its row: both (counting tokens,)."""
    wanted = targets[:, 1:]
    counted = wanted != IGNORED
    losses = F.cross_entropy(logits[:, :-1][counted].float(), wanted[counted], reduction="none")
    return losses, counted.nonzero()[:, 0]
