"""Rows of all ranks in one tensor, through which gradients flow back to the rank that holds the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from regraft.contracts import Batch, ForwardPass


class WholeOutput:
    """The logits of a whole step's rows, in the place of a model's output."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def gather_pass(own: ForwardPass, *, real: bool) -> ForwardPass:
    """Return a pass over the rows of all ranks: labels, logits and features, in the order of the step's rows.

    A rank whose rows are not `real` adds none of them. Every rank must call this at the same time.
    """
    logits = own.output.logits
    count = len(logits) if real else 0
    batch: Batch = {name: gather_rows(value, count) for name, value in own.batch.items() if name == "labels"}
    features = None if own.features is None else gather_rows(own.features, count)
    return ForwardPass(batch, WholeOutput(gather_rows(logits, count)), features)


def gather_rows(rows: Tensor, count: int) -> Tensor:
    """Return the first `count` rows of every rank, in the order in which `data.sampler.share` dealt them out.

    Without other ranks, those of this one.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows[:count]
    held = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
    held[dist.get_rank()] = count
    dist.all_reduce(held)
    counts: list[int] = held.tolist()
    found: Tensor = _Gathered.apply(rows[:count], tuple(counts))  # type: ignore[no-untyped-call]
    return found[dealt_order(counts).to(found.device)]


def dealt_order(counts: Sequence[int]) -> Tensor:
    """Return the places, among the rows of all ranks in rank order, of the rows as they were dealt out in turn."""
    dealt = sorted((turn, rank) for rank, count in enumerate(counts) for turn in range(count))
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    return torch.tensor([starts[rank] + turn for turn, rank in dealt], dtype=torch.int64)


class _Gathered(torch.autograd.Function):
    """Joins the rows of all ranks; the gradient of a row is the sum over what all ranks computed from it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
        padded = F.pad(rows, padding).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        first, rank = ctx.counts, dist.get_rank()
        start = sum(first[:rank])
        return summed[start : start + first[rank]], None
