"""Length limits of texts, padding, and losses per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from regraft.contracts import Batch, Context, Example, TextLengths
from regraft.errors import DataError, Unsupported

USUAL_LENGTH = 256
"""Tokens of a text that are read if the spec does not limit them."""
_UNLIMITED = 10**9
"""Tokenizers without a limit name one that is larger."""
_COUNTED = 64
"""Texts whose tokens are counted at a time."""
_MOST_CHARACTERS = 1_000_000
_ADDED = 16
"""More tokens than a tokenizer puts around a text; apart from these, a text has no more tokens than bytes."""
IGNORED = -100
"""Target of tokens that do not count: torch's cross entropy skips them."""


def refuse_length(written: int | None, config: Any, *, where: str = "task.max_length") -> None:
    """Raise Unsupported, naming the field `where`, if the written length is more than the base can read."""
    limit = positions(config)
    if written is not None and limit is not None and written > limit:
        raise Unsupported(f"{written} is written; this base reads 2 to {limit} tokens", where=where)


def length_read(written: int | None, context: Context) -> int:
    """Return how many tokens of a text are read: the written length, or less if tokenizer or base read less."""
    wanted = written or USUAL_LENGTH
    return min(wanted, longest_read(context) or wanted)


def longest_read(context: Context) -> int | None:
    """Return how many tokens tokenizer and base can read at most, or None where neither has a limit."""
    limits = (int(context.processor.model_max_length), positions(context.config) or _UNLIMITED)
    return found if (found := min(limits)) < _UNLIMITED else None


def lengths_of(
    texts: Sequence[Sequence[str]], limit: int, context: Context, *, what: str = "", setting: str = "task.max_length"
) -> TextLengths:
    """Return the tokens of whole texts, (rows,), as far as they can be cut.

    Each of `texts` holds one row's texts, which are joined to one. They are read to their first million characters,
    which is more than any limit. A text of so few bytes that it cannot be longer than the limit is not given to the
    tokenizer, and counts with its bytes.
    """
    counts = [sum(map(_byte_count, row)) + _ADDED for row in texts]
    long = [number for number, count in enumerate(counts) if count > limit]
    for start in range(0, len(long), _COUNTED):
        numbers = long[start : start + _COUNTED]
        columns = zip(*(texts[number] for number in numbers), strict=True)
        capped = [[text[:_MOST_CHARACTERS] for text in column] for column in columns]
        found = context.processor(*capped, truncation=False, add_special_tokens=True, verbose=False)
        for number, ids in zip(numbers, found["input_ids"], strict=True):
            counts[number] = len(ids)
    return TextLengths(what, counts, limit, longest_read(context), setting)


def _byte_count(text: str) -> int:
    return len(text.encode(errors="replace"))


def refuse_unknown_ids(ids: Sequence[int], row: Any, context: Context) -> None:
    """Raise DataError if a row holds a token that the base's embedding table lacks."""
    size = table_size(context.config)
    if size is None or not ids or (highest := max(ids)) < size:
        return
    token = context.processor.convert_ids_to_tokens([highest])[0]
    raise DataError(
        f"holds {token!r}, token {highest:,} of the tokenizer, and the base's embedding table has {size:,} rows: "
        "leave it out of the text, or save the base with resize_token_embeddings and train again",
        where=f"row {row}",
    )


def table_size(config: Any) -> int | None:
    """Return the rows of the base's table of token embeddings, or None where its configuration does not say it."""
    size = getattr(config, "vocab_size", None)
    if size is None and hasattr(config, "get_text_config"):
        size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def padded(examples: Sequence[Example], context: Context) -> Batch:
    """Pad every list of numbers on the right to the longest row; return tensors (rows, tokens), without `labels`."""
    longest = max(len(example["input_ids"]) for example in examples)
    fill = {"input_ids": _pad_id(context)}
    batch: Batch = {}
    for name in examples[0]:
        if name != "labels":
            rows = [example[name] + [fill.get(name, 0)] * (longest - len(example[name])) for example in examples]
            batch[name] = torch.tensor(rows, dtype=torch.long)
    return batch


def token_losses(logits: Tensor, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
    """Return each token's cross entropy and a mask of the tokens that count, both (rows, tokens).

    A token does not count, and its loss is 0, where its target is IGNORED. `logits` are (rows, tokens, outputs).
    Targets are `targets` in each row's dict of `labels`.
    """
    targets = pad_sequence([item["targets"] for item in batch["labels"]], batch_first=True, padding_value=IGNORED)
    losses = F.cross_entropy(
        logits.float().transpose(1, 2),
        targets,
        reduction="none",
        ignore_index=IGNORED,
        label_smoothing=context.label_smoothing,
    )
    return losses, targets != IGNORED


def positions(config: Any) -> int | None:
    """Return how many tokens the base's position table holds, or None where it has no such limit.

    RoBERTa and its successors number positions from the padding id + 1. The entries before are not used.
    """
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    counted_from_pad = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "data2vec-text"}
    if getattr(config, "model_type", "") in counted_from_pad:
        found -= (config.pad_token_id or 0) + 1
    return found


def own_pad_id(config: Any) -> int | None:
    """Return the padding id of the model's own configuration, or None."""
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else None


def _pad_id(context: Context) -> int:
    """Return the padding id of the model, else the tokenizer's: the model finds padding by comparing ids."""
    own = own_pad_id(context.config)
    own = context.processor.pad_token_id if own is None else own
    return 0 if own is None else int(own)
