"""One optimizer step, from micro-batches to updated weights; the result does not depend on how rows fall on ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from regraft.bases.adapted import Adapted, model_inputs
from regraft.contracts import Batch, ForwardPass, Loss, Step
from regraft.errors import Unsupported
from regraft.spec.sections import TrainingSpec
from regraft.training.evaluate import to_device
from regraft.training.gathering import gather_pass
from regraft.training.harness import Harness
from regraft.training.whole_step import CachedLoss, cached_loss, whole_step_loss

SMALLEST = 1e-12
"""The smallest weight of a step, for one without rows or with rows that weigh nothing."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One rank's rows of a micro-batch."""

    rows: Batch
    real: bool = True
    """False where the rank has no rows left: the batch is then another rank's row, which does not count."""
    target: Batch | None = None
    """Rows of `data.target`, for loss terms that read them."""
    target_real: bool = True
    """The same as `real`, of the target rows."""


@dataclass(frozen=True, slots=True)
class RowStanding:
    """Whether rows of a micro-batch count, and the loss of its whole step, where that was computed before."""

    real: bool = True
    target_real: bool = True
    cached: CachedLoss | None = None
    micro: int = 0
    """Which micro-batch of the step it is."""


class StepModule(nn.Module):
    """The forward pass of a step as one module, so that wrappers see every trained parameter.

    Loss terms with parameters are submodules beside the model; DDP and FSDP wrap both.
    """

    def __init__(self, adapted: Adapted, losses: Sequence[Loss] = (), *, terms: nn.ModuleList | None = None) -> None:
        """Build the loss terms on the model, unless `terms` are those of an earlier phase."""
        super().__init__()
        self.model = adapted.model
        built = (loss.build(adapted.model, adapted.anatomy) for loss in losses)
        self.terms = nn.ModuleList(built) if terms is None else terms
        self._losses = tuple(losses)
        self._adapted = [adapted]  # in a list, so that its model is not registered twice
        self._forward: list[Any] = [adapted.model]  # in a list for the same reason

    def compile_model(self) -> None:
        """Compile the steps' forward pass; parameters keep their names and identity, evaluation stays eager."""
        self._forward[0] = torch.compile(self.model)

    def forward(
        self, batch: Batch, progress: float, target: Batch | None = None, standing: RowStanding = RowStanding()
    ) -> tuple[Tensor, Tensor]:
        """Return (sum of the loss over rows, weight); loss terms are scaled by the same weight.

        `target` are rows of `data.target`, which have a forward pass of their own: batch norm never mixes both.
        """
        adapted = self._adapted[0]
        own = self._pass(batch)
        if adapted.method.trains_features:
            return self._feature_loss(own, real=standing.real)
        total, weight = self._task_loss(own, standing)
        if not self._losses:
            return total, weight
        other = None if target is None else self._pass(target)
        step = _joined(own, other, progress)
        whole = (
            self._whole_step(own, other, progress, standing) if any(one.whole_step for one in self._losses) else step
        )
        for loss, term in zip(self._losses, self.terms, strict=True):
            value = term(whole if loss.whole_step else step)
            total = total + loss.weight * value * weight.detach()
        return total, weight

    def step_values(self, batch: Batch) -> Tensor:
        """Return what the task's loss of a whole step reads of each row of a batch."""
        return self._adapted[0].task.step_values(self._pass(batch).output)

    def cached_loss(self, values: Sequence[Tensor], batches: Sequence[MicroBatch]) -> CachedLoss:
        """Return the loss of a step from the values of this rank's micro-batches; called on every rank at once."""
        task, context = self._adapted[0].task, self._adapted[0].context
        labels = [to_device(part.rows["labels"], one.device) for part, one in zip(batches, values, strict=True)]
        return cached_loss(task, values, labels, context, real=[part.real for part in batches])

    @property
    def whole_step(self) -> bool:
        """Whether the task's loss compares the rows of a step with one another."""
        return self._adapted[0].task.whole_step

    def _task_loss(self, own: ForwardPass, standing: RowStanding) -> tuple[Tensor, Tensor]:
        task, context = self._adapted[0].task, self._adapted[0].context
        if not task.whole_step:
            return task.loss(own.output, own.batch, context)
        values = task.step_values(own.output)
        if standing.cached is not None:
            return standing.cached.of(standing.micro, values)
        return whole_step_loss(task, values, own.batch["labels"], context, real=standing.real)

    def _feature_loss(self, own: ForwardPass, *, real: bool) -> tuple[Tensor, Tensor]:
        """Return the method's loss on the features of the whole step, times this rank's rows, and their number.

        Logits count nothing: they give the head, which is solved, a gradient of 0, as wrappers need one.
        """
        if own.features is None:
            raise Unsupported("it reads one vector for each row, and this head does not", where="method")
        whole = gather_pass(own, real=real)
        assert whole.features is not None
        # Products rounded to 16 bits would make noise of the differences between rows of a class.
        with torch.autocast(whole.features.device.type, enabled=False):
            value = self._adapted[0].method.feature_loss(whole.features.float(), whole.batch["labels"])
        weight = torch.tensor(float(len(own.features)), device=value.device)
        return value * weight + own.output.logits.sum() * 0.0, weight

    def _pass(self, batch: Batch) -> ForwardPass:
        adapted = self._adapted[0]
        with self._watched(adapted) as seen, adapted.bypassing_trunk(batch):
            output = self._forward[0](**model_inputs(batch))
        return ForwardPass(batch=batch, output=output, features=seen[0] if len(seen) == 1 else None)

    @contextmanager
    def _watched(self, adapted: Adapted) -> Iterator[list[Tensor]]:
        """Record the inputs of the head's last linear layer, where loss terms may read them."""
        seen: list[Tensor] = []
        layer = adapted.last_linear() if self._losses or adapted.method.trains_features else None
        if layer is None:
            yield seen
            return
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            hook.remove()

    def _whole_step(self, own: ForwardPass, other: ForwardPass | None, progress: float, standing: RowStanding) -> Step:
        return _joined(
            gather_pass(own, real=standing.real),
            None if other is None else gather_pass(other, real=standing.target_real),
            progress,
        )


def _joined(own: ForwardPass, other: ForwardPass | None, progress: float) -> Step:
    return Step(batch=own.batch, output=own.output, features=own.features, progress=progress, target=other)


def seed_micro(seed: int, step: int, micro: int, rank: int) -> None:
    """Seed dropout from (seed, step, micro-batch, rank), so that a resumed run needs no saved generator state."""
    digest = hashlib.sha256(f"{seed}/{step}/{micro}/{rank}".encode()).digest()
    drawn = int.from_bytes(digest[:7], "big")
    # Not torch.manual_seed: it records the stack for each device that is not in use yet, a millisecond a step.
    torch.default_generator.manual_seed(drawn)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(drawn)


class Stepper:
    """Runs optimizer steps; its parts are fixed for the run."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        harness: Harness,
        *,
        training: TrainingSpec,
    ) -> None:
        self.module, self.optimizer, self.accelerator, self.harness = module, optimizer, accelerator, harness
        self.seed, self.clip = training.seed, training.clip
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._notices = self._before = torch.zeros(())

    @property
    def stop_requested(self) -> bool:
        """True if any rank was asked to stop. It is equal on every rank, so that all end at the same step.

        On a GPU this reads the notices of the previous step, since reading those of this step would wait for it.
        """
        notices = self._notices if self.harness.device.type == "cpu" else self._before
        return notices.item() > 0

    def step(self, number: int, batches: Sequence[MicroBatch], progress: float) -> tuple[Tensor, Tensor]:
        """Take one optimizer step over this rank's micro-batches.

        Returns the loss (mean over the weight of all ranks) and the gradient's norm as tensors, since reading them
        waits for the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, dtype=torch.float64, device=self.harness.device)
        # The stop notice is summed with the totals that every step needs anyway.
        totals[2] = float(bool(self.harness.notice))
        cached = self._cached_loss(number, batches)
        for micro, part in enumerate(batches):
            batch = to_device(part.rows, self.harness.device)
            target = None if part.target is None else to_device(part.target, self.harness.device)
            seed_micro(self.seed, number, micro, self.harness.rank)
            with self._synchronised(last=micro == len(batches) - 1), self.accelerator.autocast():
                standing = RowStanding(part.real, part.target_real, cached, micro)
                total, weight = self.module(batch, progress, target, standing)
                # A rank without rows takes part with one row at weight 0, so that no collective waits for it.
                total, weight = (total, weight) if part.real else (total * 0.0, weight * 0.0)
                self.accelerator.backward(total)
            totals[:2] += torch.stack([total.detach().double(), weight.detach().double()])
        self.harness.sum(totals)
        self._before, self._notices = self._notices, totals[2]
        # A batch whose rows all weigh nothing has no gradient; it must not become 0 / 0.
        weight = totals[1].clamp(min=SMALLEST)
        return totals[0] / weight, self._apply(weight)

    def _cached_loss(self, number: int, batches: Sequence[MicroBatch]) -> CachedLoss | None:
        """Return the loss of a step of several micro-batches, where it compares all of their rows; else None."""
        module: Any = getattr(self.module, "module", self.module)
        if len(batches) < 2 or not module.whole_step:
            return None
        # Running statistics are those of the second pass alone.
        before = [buffer.clone() for buffer in module.buffers()]
        values = []
        for micro, part in enumerate(batches):
            seed_micro(self.seed, number, micro, self.harness.rank)
            with torch.no_grad(), self.accelerator.autocast():
                values.append(module.step_values(to_device(part.rows, self.harness.device)))
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
        found: CachedLoss = module.cached_loss(values, batches)
        return found

    def _synchronised(self, *, last: bool) -> Any:
        """Return a context in which gradients are exchanged between ranks only for the last micro-batch."""
        inner = getattr(self.module, "model", None)
        if isinstance(inner, FSDPModule):
            inner.set_requires_gradient_sync(last)
        if isinstance(self.module, DistributedDataParallel) and not last:
            return self.module.no_sync()
        return nullcontext()

    def _apply(self, weight: Tensor) -> Tensor:
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # Ranks' gradients are averaged: times the world over the summed weight is the mean over all rows.
        scale = (self.harness.world / weight).float()
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm) * scale
        if self.clip is not None:
            scale = scale * torch.clamp(self.clip / (norm + 1e-6), max=1.0)
        multiply(gradients, scale)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        return norm


def multiply(gradients: Sequence[Tensor], scale: Tensor) -> None:
    """Multiply all gradients by one number, in place."""
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]
    torch._foreach_mul_(local, scale)


def scaler_state(accelerator: Accelerator) -> dict[str, float]:
    """Return the state of fp16's loss scaling as JSON-able data; empty for other precisions."""
    state: Mapping[str, float] = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
    return dict(state)
