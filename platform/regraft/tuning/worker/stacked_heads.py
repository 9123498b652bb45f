"""The arithmetic of linear heads that are trained together on the same features, in one computation.

Each head of a stack takes the steps that it would take alone: its own rows in its own order, its own dropout, learning
rate, decay, clipping and loss. The heads share the reading of features and the kernel launches. Heads that read the
same batch after the same dropout form a block, with one matrix product for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regraft.contracts import Context, Task
from regraft.data.sampler import batches, batches_per_epoch, position
from regraft.spec.sections import TrainingSpec, number_of
from regraft.training.optimizer import schedule
from regraft.training.run_steps import steps_of
from regraft.training.step import SMALLEST, seed_micro

BETAS, EPS, MOMENTUM = (0.9, 0.999), 1e-8, 0.9
"""torch's defaults of AdamW, and the momentum of `training.optimizer`."""

Output = Callable[[Tensor], Any]
"""Wraps logits, (rows, outputs), as the model's output that the task reads."""


@dataclass(frozen=True)
class HeadRows:
    """The features that a linear head reads for each row of one side, and the targets."""

    features: Tensor
    """(rows, width), contiguous."""
    labels: Tensor
    """(rows, ...)."""
    lengths: NDArray[np.int32]
    """(rows,), for bucketing."""


@dataclass
class Head:
    """One head: its training settings and its state."""

    training: TrainingSpec
    context: Context
    dropout: float
    """Probability of the dropout before the head."""
    bucketing: bool
    weight: Tensor
    """(outputs, width)."""
    bias: Tensor | None
    """(outputs,)."""
    step: int = 0
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """The optimizer's state when it joins the stack, by `<weight or bias>|<entry>`."""

    def steps(self, rows: int) -> int:
        """Return the number of steps of its complete training."""
        return steps_of(self.training, rows)

    def per_epoch(self, rows: int) -> int:
        """Return the number of steps per pass over the rows."""
        return batches_per_epoch(rows, self.training.batch_size)

    def batch_key(self) -> tuple[Any, ...]:
        """Return a key of the rows and the dropout of its next step."""
        training = self.training
        return training.seed, training.batch_size, self.bucketing, self.dropout, self.step

    def loss_key(self) -> tuple[Any, ...]:
        """Return a key of its loss function."""
        weights = self.context.class_weights
        return self.context.label_smoothing, None if weights is None else tuple(weights.tolist())


@dataclass(frozen=True)
class Block:
    """A range of the stack whose heads read the same batch and have the same loss."""

    start: int
    end: int
    x: Tensor
    """(rows, width), dropout applied."""
    labels: Tensor
    loss: int
    """Blocks with the same number have the same loss."""


class Stack:
    """The heads that are being trained, all with the same optimizer."""

    def __init__(self, heads: Sequence[Head], rows: HeadRows, task: Task, output: Output) -> None:
        self._rows, self._task, self._output = rows, task, output
        self.heads = sorted(heads, key=lambda head: repr((head.batch_key(), head.loss_key())))
        self.optimizer = self.heads[0].training.optimizer
        self._orders: dict[tuple[Any, ...], list[NDArray[np.int64]]] = {}
        self.values = {"weight": torch.stack([head.weight for head in self.heads])}
        if self.heads[0].bias is not None:
            self.values["bias"] = torch.stack([head.bias for head in self.heads if head.bias is not None])
        self.entries = ("exp_avg", "exp_avg_sq") if self.optimizer == "adamw" else ("momentum_buffer",)
        self.moments = {
            f"{name}|{entry}": torch.stack(
                [
                    head.moments.get(f"{name}|{entry}", torch.zeros_like(values[at]))
                    for at, head in enumerate(self.heads)
                ]
            )
            for name, values in self.values.items()
            for entry in self.entries
        }
        self.norms = torch.zeros(len(self.heads))
        """(heads,): norms of the last step's gradients."""
        self._settle()

    def step(self) -> None:
        """Take one optimizer step of every head, each at its own step number."""
        blocks = self._blocks()
        gradients, weight = self._gradients(blocks)
        self._apply(gradients, weight)
        for head in self.heads:
            head.step += 1

    def logits(self, features: Tensor, at: Sequence[int]) -> Tensor:
        """Return the logits of the heads at the positions `at`, (heads, rows, outputs), without dropout."""
        weight = self.values["weight"][list(at)]
        found = (features @ weight.flatten(0, 1).T).view(len(features), len(at), -1).permute(1, 0, 2)
        return found + self.values["bias"][list(at)][:, None] if "bias" in self.values else found

    def taken(self, at: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of a head's values and of its optimizer's state, by `weight` and `bias`."""
        values = {name: tensor[at].clone() for name, tensor in self.values.items()}
        moments = {name: tensor[at].clone() for name, tensor in self.moments.items()}
        if self.optimizer == "adamw":
            count = torch.tensor(float(self.heads[at].step))
            moments |= {f"{name}|step": count.clone() for name in self.values}
        return values, moments

    def leave(self, gone: Iterable[int]) -> None:
        """Remove heads from the stack."""
        left = set(gone)
        stay = [at for at in range(len(self.heads)) if at not in left]
        self.heads = [self.heads[at] for at in stay]
        self.values = {name: tensor[stay] for name, tensor in self.values.items()}
        self.moments = {name: tensor[stay] for name, tensor in self.moments.items()}
        self.norms = self.norms[stay]
        self._settle()

    def _settle(self) -> None:
        """Compute what is constant until a head leaves: settings as tensors, and the ranges of blocks."""
        rows, device = len(self._rows.features), self._rows.features.device
        settings = [head.training for head in self.heads]
        clips = [float("inf") if training.clip is None else training.clip for training in settings]
        self._clip = torch.tensor(clips, device=device)
        self._decay = torch.tensor([training.weight_decay for training in settings], device=device)
        peaks = [number_of(training.lr) * number_of(training.head_factor) for training in settings]
        self._peak = torch.tensor(peaks, device=device)
        self._paces = [
            (training.schedule, number_of(training.warmup), head.steps(rows), head.step)
            for training, head in zip(settings, self.heads, strict=True)
        ]
        self._ranges: list[tuple[int, int, int, int]] = []
        keys = [(head.batch_key(), head.loss_key()) for head in self.heads]
        batches_seen: dict[Any, int] = {}
        losses: dict[Any, int] = {}
        start = 0
        for end in range(1, len(keys) + 1):
            if end == len(keys) or keys[end] != keys[start]:
                batch, loss = (
                    known.setdefault(key, len(known))
                    for known, key in zip((batches_seen, losses), keys[start], strict=True)
                )
                self._ranges.append((start, end, batch, loss))
                start = end

    def _blocks(self) -> list[Block]:
        read: dict[int, tuple[Tensor, Tensor]] = {}
        for start, _, batch, _ in self._ranges:
            if batch not in read:
                read[batch] = self._read_batch(self.heads[start])
        return [Block(start, end, *read[batch], loss) for start, end, batch, loss in self._ranges]

    def _read_batch(self, head: Head) -> tuple[Tensor, Tensor]:
        """Return the batch of a head's next step: features after dropout, (rows, width), and labels."""
        rows, training = self._rows, head.training
        epoch, index = position(head.step, head.per_epoch(len(rows.features)))
        key = (training.seed, training.batch_size, head.bucketing, epoch)
        if key not in self._orders:
            stale = [old for old in self._orders if old[:3] == key[:3] and old[3] < epoch - 1]
            for old in stale:
                del self._orders[old]
            self._orders[key] = batches(
                training.seed, epoch, rows.lengths, training.batch_size, bucketing=head.bucketing
            )
        chosen = torch.from_numpy(self._orders[key][index]).to(rows.features.device)
        x = rows.features[chosen]
        if head.dropout:
            seed_micro(training.seed, head.step, 0, 0)
            x = F.dropout(x, head.dropout, training=True)
        return x, rows.labels[chosen]

    def _gradients(self, blocks: Sequence[Block]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gradients of the summed losses, and each head's weight, (heads,), to divide them by."""
        weight, bias = self.values["weight"], self.values.get("bias")
        logits = []
        for block in blocks:
            z = block.x @ weight[block.start : block.end].flatten(0, 1).T
            z = z.view(len(block.x), block.end - block.start, -1).transpose(0, 1)
            logits.append(z + bias[block.start : block.end, None] if bias is not None else z)
        slopes, divide = self._losses(blocks, logits)
        found = {"weight": torch.empty_like(weight)}
        if bias is not None:
            found["bias"] = torch.empty_like(bias)
        for block, slope in zip(blocks, slopes, strict=True):
            flat = slope.transpose(0, 1).flatten(1)  # (rows, heads * outputs)
            found["weight"][block.start : block.end] = (flat.T @ block.x).view(
                block.end - block.start, *weight.shape[1:]
            )
            if bias is not None:
                found["bias"][block.start : block.end] = slope.sum(1)
        return found, divide

    def _losses(self, blocks: Sequence[Block], logits: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the losses' gradients by the logits of each block, (heads, rows, outputs), and each head's weight.

        The task's loss is called once for all blocks that share it.
        """
        slopes: list[Tensor | None] = [None] * len(blocks)
        divide = torch.empty(len(self.heads), device=self._rows.features.device)
        alike: dict[int, list[int]] = {}
        for number, block in enumerate(blocks):
            alike.setdefault(block.loss, []).append(number)
        for members in alike.values():
            context = self.heads[blocks[members[0]].start].context
            flat = torch.cat([logits[number].flatten(0, 1) for number in members]).requires_grad_(True)
            labels = torch.cat([_repeated(blocks[number]) for number in members])
            total, weight = self._task.loss(self._output(flat), {"labels": labels}, context)
            (slope,) = torch.autograd.grad(total, flat)
            sizes = [logits[number].shape[0] * logits[number].shape[1] for number in members]
            for number, part in zip(members, torch.split(slope, sizes), strict=True):
                block = blocks[number]
                slopes[number] = part.view_as(logits[number])
                each = weight.detach() / (block.end - block.start)
                if len(members) > 1:
                    with torch.no_grad():
                        _, each = self._task.loss(self._output(logits[number][0]), {"labels": block.labels}, context)
                divide[block.start : block.end] = each
        return [slope for slope in slopes if slope is not None], divide.clamp(min=SMALLEST)

    def _apply(self, gradients: Mapping[str, Tensor], weight: Tensor) -> None:
        """Divide, clip and step, as `training.step` and torch's optimizers do for one model."""
        scale = 1.0 / weight
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        self.norms = torch.stack(squares).sum(0).sqrt() * scale
        scale = scale * (self._clip / (self.norms + 1e-6)).clamp(max=1.0)
        rate, step = self._peak * self._shares(), self._counts()
        decay = self._decay
        for name, gradient in gradients.items():
            at = (slice(None), *[None] * (gradient.ndim - 1))
            # Vectors (biases) are exempt from weight decay.
            wanted = decay[at] if gradient.ndim > 2 else None
            gradient.mul_(scale[at])
            if self.optimizer == "adamw":
                self._adamw(name, gradient, rate[at], wanted, step=step[at])
            else:
                self._sgd(name, gradient, rate[at], wanted)

    def _shares(self) -> Tensor:
        """Return the current share of each head's peak learning rate, (heads,)."""
        known: dict[Any, float] = {}
        for pace, head in zip(self._paces, self.heads, strict=True):
            if (pace, head.step) not in known:
                known[pace, head.step] = schedule(head.step, pace[2], head.training)
        shares = [known[pace, head.step] for pace, head in zip(self._paces, self.heads, strict=True)]
        return torch.tensor(shares, device=self._peak.device)

    def _counts(self) -> Tensor:
        """Return the number of each head's step, counted from 1, (heads,)."""
        return torch.tensor([head.step + 1.0 for head in self.heads], dtype=torch.float64, device=self._peak.device)

    def _adamw(self, name: str, gradient: Tensor, rate: Tensor, decay: Tensor | None, *, step: Tensor) -> None:
        values = self.values[name]
        mean, square = self.moments[f"{name}|exp_avg"], self.moments[f"{name}|exp_avg_sq"]
        if decay is not None:
            values.mul_(1 - rate * decay)
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        size = (rate / (1 - BETAS[0] ** step)).float()
        root = (1 - BETAS[1] ** step).sqrt().float()
        values.sub_(size * mean / (square.sqrt() / root + EPS))

    def _sgd(self, name: str, gradient: Tensor, rate: Tensor, decay: Tensor | None) -> None:
        values, momentum = self.values[name], self.moments[f"{name}|momentum_buffer"]
        if decay is not None:
            gradient.add_(values * decay)
        momentum.mul_(MOMENTUM).add_(gradient)
        values.sub_(rate * momentum)


def _repeated(block: Block) -> Tensor:
    """Return the labels of a block, repeated for each of its heads."""
    return block.labels.repeat(block.end - block.start, *[1] * (block.labels.ndim - 1))
