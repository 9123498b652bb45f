"""How many tokens of a text does a base read, and how do texts of several lengths become one batch?"""

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
IGNORED = -100
"""A target that counts for nothing."""


def refuse_length(written: int | None, config: Any, *, where: str = "task.max_length") -> None:
    """Unsupported when what a field says is more than the base can read."""
    limit = positions(config)
    if written is not None and limit is not None and written > limit:
        raise Unsupported(f"{written} is written; this base reads 2 to {limit} tokens", where=where)


def length_read(written: int | None, context: Context) -> int:
    """How many tokens of a text are read; a tokenizer without a limit says 1e30."""
    wanted = written or USUAL_LENGTH
    return min(wanted, int(context.processor.model_max_length), positions(context.config) or wanted)


def padded(examples: Sequence[Example], context: Context) -> Batch:
    """All lists of numbers but `labels` as tensors (rows, tokens), padded on the right to the longest."""
    longest = max(len(example["input_ids"]) for example in examples)
    fill = {"input_ids": _pad_id(context)}
    batch: Batch = {}
    for name in examples[0]:
        if name != "labels":
            rows = [example[name] + [fill.get(name, 0)] * (longest - len(example[name])) for example in examples]
            batch[name] = torch.tensor(rows, dtype=torch.long)
    return batch


def token_losses(logits: Tensor, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
    """Each token's cross entropy from logits (rows, tokens, outputs), 0 where its target is IGNORED, and which targets
    count: both (rows, tokens). The targets of each row are `targets` in its dict of `labels`."""
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
    """Tokens that the position table holds, or None where there is no such limit.

    Families after RoBERTa count positions from the padding id + 1, so the first two entries of their table are lost.
    """
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found <= 0:
        return None
    counted_from_pad = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl", "data2vec-text"}
    if getattr(config, "model_type", "") in counted_from_pad:
        found -= (config.pad_token_id or 0) + 1
    return found


def own_pad_id(config: Any) -> int | None:
    """The padding id that the model itself names, if any."""
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else None


def _pad_id(context: Context) -> int:
    """The model's padding id before the tokenizer's: it is the model that skips padding by comparing ids."""
    own = own_pad_id(context.config)
    own = context.processor.pad_token_id if own is None else own
    return 0 if own is None else int(own)
