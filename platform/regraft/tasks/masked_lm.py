"""Masked language modelling: an encoder goes on with its pretraining on texts without labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

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
    TextLengths,
    fill_mask_form,
)
from regraft.errors import Unsupported
from regraft.tasks.inputs.masking import hide, number_of_tokens, surrounding, vocabulary_of
from regraft.tasks.inputs.packing import Document, blocks
from regraft.tasks.inputs.tokens import (
    USUAL_LENGTH,
    length_read,
    padded,
    refuse_length,
    refuse_unknown_ids,
    table_size,
)

MOST_NATS = 700.0
"""Mean loss of a token beyond which a perplexity overflows a float."""
log = logging.getLogger(__name__)


class MaskedLm(Task):
    """Masked language modelling (Devlin et al., 2019): hidden tokens of a text are found from those around them.

    It needs texts without labels, and makes a base that knows their words: write it in `stages`, or name its model as
    the base of another run. In each epoch other tokens are hidden; evaluations always hide the same ones. A base
    without an output layer gets a new one, tied to its embeddings. Answers fill the masks of a text.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {
            "mlm",
            "fill-mask",
            "masked-language-modeling",
            "masked-language-modelling",
            "continued-pretraining",
            "domain-adaptive-pretraining",
        }
    )
    auto: ClassVar[str] = "AutoModelForMaskedLM"
    modality: ClassVar[str] = "text"
    score: ClassVar[Score] = Score("pseudo_perplexity", "min", of_tokens=True)
    columns: ClassVar[Mapping[str, Kind]] = {"text": "text"}
    supports: ClassVar[frozenset[str]] = frozenset({"bucketing"})
    packs: ClassVar[bool] = True
    random_inputs: ClassVar[bool] = True
    answer_fields: ClassVar[frozenset[str]] = frozenset({"top_k"})
    later: ClassVar[frozenset[str]] = frozenset({"whole_words", "packing"})

    max_length: int | None = Field(None, ge=3)
    """Tokens of a piece of text; a longer text is cut into several. Null is what the tokenizer reads, at most 256."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of a text's tokens that are to be found, and one at least: of these, 80 % are hidden by the mask, 10 % are
    random tokens, and 10 % stay as they are."""
    whole_words: bool = False
    """True: words are hidden, with all of their tokens, in place of single tokens (Cui et al., 2021). Words are found
    by the marks of the base's tokenizer; in scripts without spaces, each token is a word."""
    packing: bool = False
    """True: short texts share a piece, each with the token that ends a text behind it, so that pieces are full. Texts
    of a piece see each other, as in the pretraining of RoBERTa (Liu et al., 2019)."""
    top_k: int = Field(5, ge=1, le=1000)
    """Most candidates for each mask of a text that is answered."""

    def stored_columns(self) -> Mapping[str, Kind]:
        """Return the column of a piece of text: its token ids, those around the text included."""
        return {"ids": "tokens"}

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its output layer, or with a new one.

        Raises Unsupported for a base with a decoder, which was pretrained otherwise.
        """
        if getattr(load.config, "is_encoder_decoder", False):
            message = f"a base of type {load.config.model_type} has an encoder and a decoder: name an encoder"
            raise Unsupported(f"{message}, such as BERT, RoBERTa or DistilBERT", where="base")
        model = load(self.auto)
        answer_at_masks(model)
        return model

    def configure(self, model: nn.Module, context: Context) -> None:
        """Raise Unsupported where the base cannot read max_length tokens, or has no mask token."""
        refuse_length(self._size(context.processor), context.config)
        vocabulary_of(context.processor, context.config)

    def check(self, row: Row) -> str | None:
        """Refuse a text without a visible character."""
        return None if row["text"].strip() else "text is empty: write one, or leave the row out"

    def text_lengths(self, rows: Sequence[Row], context: Context) -> Sequence[TextLengths]:
        """Return nothing: long texts are cut into several pieces, and read to their end."""
        return ()

    def length(self, row: Row) -> int:
        """Return the tokens of a piece, or the characters of a text."""
        return len(row["ids"]) if "ids" in row else len(row["text"])

    def pack(self, rows: Iterable[Row], processor: Any) -> Iterator[dict[str, Any]]:
        """Yield the pieces of each text, or pieces that hold several.

        Texts without a token that may be hidden are left out and counted.
        """
        vocabulary, skipped, read = vocabulary_of(processor), 0, 0

        def texts() -> Iterator[list[list[int]]]:
            nonlocal skipped, read
            cut = self._whole if self.packing else self._pieces
            for row in rows:
                pieces = [ids for ids in cut(row["text"], processor) if len(vocabulary.positions(ids))]
                skipped, read = skipped + (not pieces), read + 1
                yield pieces

        if self.packing:
            yield from self._shared(texts(), processor)
        else:
            yield from ({"ids": ids} for pieces in texts() for ids in pieces)
        if skipped:
            log.warning(
                "%d of %d texts hold no token that can be hidden (unknown words alone): they are left out",
                skipped,
                read,
            )

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return token ids as lists of int; of a piece with its hidden tokens as `masked` (tokens,) and `labels`."""
        if "ids" not in row:
            length = length_read(self.max_length, context)
            ids = context.processor(row["text"], truncation=True, max_length=length)["input_ids"]
            refuse_unknown_ids(ids, row.get("row"), context)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        ids = list(row["ids"])
        refuse_unknown_ids(ids, row.get("row"), context)
        key = row["draw"] if train and "draw" in row else number_of_tokens(ids)
        vocabulary = vocabulary_of(context.processor).within(table_size(context.config))
        read, chosen = hide(ids, vocabulary, self.mask_share, key=key, whole_words=self.whole_words)
        masked = [0] * len(ids)
        for place in chosen:
            masked[place] = 1
        targets = [ids[place] for place in chosen]
        return {"input_ids": read, "attention_mask": [1] * len(ids), "masked": masked, "labels": targets}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors (rows, tokens), padded on the right; `labels` holds the hidden tokens of all rows in order,
        `targets` (hidden tokens,), and how many are each row's, `counts`."""
        batch = padded(examples, context)
        if "masked" not in batch:
            return batch
        targets = [example["labels"] for example in examples]
        joined = torch.tensor([token for row in targets for token in row], dtype=torch.long)
        labels = {"targets": joined, "counts": [len(row) for row in targets]}
        return {**batch, "masked": batch["masked"].bool(), "labels": labels}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy summed over hidden tokens, and their number."""
        losses = _hidden_losses(output, batch)
        return losses.sum(), losses.new_tensor(float(losses.numel()))

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per row the summed loss, the hidden tokens, how many were found, and as `error` the mean loss."""
        losses = _hidden_losses(output, batch)
        found = output.logits[0].argmax(-1) == batch["labels"]["targets"]
        counts = batch["labels"]["counts"]
        return [
            {
                "loss": loss.sum().item(),
                "tokens": count,
                "found": right.sum().item(),
                "error": loss.sum().item() / max(count, 1),
            }
            for loss, right, count in zip(
                torch.split(losses.double(), counts), torch.split(found, counts), counts, strict=True
            )
        ]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return pseudo_perplexity, the exponential of the mean loss over hidden tokens; masked_accuracy, the share
        that was found; that loss; and the number of hidden tokens."""
        tokens = sum(record["tokens"] for record in records)
        loss = sum(record["loss"] for record in records) / max(tokens, 1)
        return {
            "pseudo_perplexity": math.exp(min(loss, MOST_NATS)),
            "masked_accuracy": sum(record["found"] for record in records) / max(tokens, 1),
            "loss": loss,
            "tokens": tokens,
        }

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `candidates`: for each mask of the text, in order, its most probable tokens and the text with each."""
        mask = vocabulary_of(context.processor).mask
        found = []
        for ids, logits in zip(batch["input_ids"], output.logits, strict=True):
            places = (ids == mask).nonzero()[:, 0].tolist()
            found.append({"candidates": [self._candidates(ids, place, logits[place], context) for place in places]})
        return found

    def api_form(self) -> ApiForm:
        """Return the form of filled masks."""
        return fill_mask_form(self.top_k)

    def example_text(self, text: str, context: Context) -> str:
        """Return the text with a mask after it."""
        return f"{text} {context.processor.mask_token}"

    def _size(self, processor: Any) -> int:
        return self.max_length or min(USUAL_LENGTH, int(processor.model_max_length))

    def _pieces(self, text: str, processor: Any) -> list[list[int]]:
        """Return the token ids of a text, cut into pieces that each have the tokens around a text."""
        size = self._size(processor)
        if not getattr(processor, "is_fast", False):
            ids: list[int] = processor(text, verbose=False)["input_ids"]
            if len(ids) > size:
                kind = type(processor).__name__
                raise Unsupported(f"{kind} cannot cut a text into pieces: a fast tokenizer is needed", where="base")
            return [ids]
        found = processor(text, truncation=True, max_length=size, return_overflowing_tokens=True, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def _whole(self, text: str, processor: Any) -> list[list[int]]:
        """Return the token ids of a text without those around it, as its only piece."""
        return [list(processor(text, add_special_tokens=False, verbose=False)["input_ids"])]

    def _shared(self, texts: Iterable[list[list[int]]], processor: Any) -> Iterator[dict[str, Any]]:
        """Yield pieces that texts share; each text ends as a text of its own does."""
        (begin, end), vocabulary = surrounding(processor), vocabulary_of(processor)
        documents = (Document([*ids, *end], [1] * (len(ids) + len(end))) for pieces in texts for ids in pieces)
        for block in blocks(documents, self._size(processor) - len(begin)):
            # The end of a text may be cut off from it, and be alone in a piece.
            if len(vocabulary.positions(block["ids"])):
                yield {"ids": [*begin, *block["ids"]]}

    def _candidates(self, ids: Tensor, place: int, logits: Tensor, context: Context) -> list[dict[str, Any]]:
        """Return the most probable tokens for one mask."""
        scores = logits.float().softmax(-1)
        best = scores.topk(min(self.top_k, len(scores)))
        found = []
        for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            filled = ids.clone()
            filled[place] = token
            text = context.processor.decode(filled.tolist(), skip_special_tokens=True)
            found.append(
                {"score": score, "token": token, "token_str": context.processor.decode([token]), "sequence": text}
            )
        return found


def answer_at_masks(model: nn.Module) -> None:
    """Let a model compute its output layer at hidden tokens alone, where a batch names them as `masked`.

    The layer has an output for each token of the vocabulary: for a small encoder it costs as much as all the rest, and
    a seventh of it is used. Without `masked`, nothing changes. Exports do not hold these hooks.
    """
    chosen: list[Tensor | None] = [None]

    def before(_: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        chosen[0] = inputs.pop("masked", None)
        return args, inputs

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        masked, chosen[0] = chosen[0], None
        if masked is not None:
            output.last_hidden_state = output.last_hidden_state[masked].unsqueeze(0)
        return output

    inside: Any = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    if not isinstance(inside, nn.Module):
        raise Unsupported(f"a {type(model).__name__} keeps no encoder apart from its output layer", where="base")
    model.register_forward_pre_hook(before, with_kwargs=True)
    inside.register_forward_hook(after)


def _hidden_losses(output: Any, batch: Batch) -> Tensor:
    """Return the cross entropy of each hidden token, in fp32."""
    return F.cross_entropy(output.logits[0].float(), batch["labels"]["targets"], reduction="none")
