"""Length limits of texts, padding, and losses per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from regraft.contracts import Batch, Context, Example
from regraft.errors import Unsupported

USUAL_LENGTH = 256
"""Tokens of a text that are read if the spec does not limit them."""
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
    return min(wanted, int(context.processor.model_max_length), positions(context.config) or wanted)


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
