"""A model adapted from a base, as training and serving hold it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Batch, Context, Method, Task, under
from regraft.errors import Unsupported

NOT_INPUTS = frozenset({"labels", "kept", "teachers", "windows"})
"""Entries of a batch that are not passed to the model."""


class TrunkBypass(Protocol):
    """A replacement of the frozen trunk that supplies its outputs."""

    def bypass(self, batch: Batch) -> AbstractContextManager[None]:
        """Return a context in which a forward pass on the batch begins after the trunk."""
        ...


def model_inputs(batch: Batch) -> Batch:
    """Return the entries of a batch that are passed to the model."""
    return {name: value for name, value in batch.items() if name not in NOT_INPUTS}


@dataclass
class Adapted:
    """A task model on its base, unwrapped; wrappers (DDP, FSDP2, torch.compile) go around or into `model`."""

    model: nn.Module
    anatomy: Anatomy
    base: Base
    task: Task
    method: Method
    context: Context
    delta_names: tuple[str, ...]
    """Canonical names of the tensors in the delta."""
    frozen_modules: tuple[nn.Module, ...] = field(default=(), repr=False)
    """Modules that compute the same as in the base, and so are never in train mode."""
    trunk: TrunkBypass | None = field(default=None, repr=False)
    """Supplies the trunk's outputs from a cache; None when the model computes them."""
    moves: Method | None = field(default=None, repr=False)
    """What moves at present, where the method trains in phases; None where it always moves the same."""
    fixed_statistics: bool = False
    """Whether batch norms read their running statistics in training too, and never change them."""

    def train_mode(self) -> None:
        """Set train mode, except in frozen modules: their dropout is off and running statistics are only read."""
        self.model.train()
        for module in self.frozen_modules:
            module.training = False
        if self.fixed_statistics:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.training = False

    def eval_mode(self) -> None:
        """Set eval mode: dropout is off and running statistics are only read."""
        self.model.eval()

    def forward(self, batch: Batch) -> Any:
        """Return the model's output for a batch on the model's device; its `labels` are not passed."""
        with self.bypassing_trunk(batch):
            return self.model(**model_inputs(batch))

    def bypassing_trunk(self, batch: Batch) -> AbstractContextManager[None]:
        """Return a context in which the batch's `kept` values replace the trunk, if it has any."""
        return nullcontext() if self.trunk is None or "kept" not in batch else self.trunk.bypass(batch)

    def linear_head(self) -> nn.Linear:
        """Return the head's one linear layer; Unsupported when the head is anything else."""
        layers = [layer for layer in self._head_layers() if any(True for _ in layer.parameters(recurse=False))]
        if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
            kinds = ", ".join(type(layer).__name__ for layer in layers) or "nothing"
            raise Unsupported(f"this needs a head of one linear layer; the head of {self.task.key()} holds {kinds}")
        return layers[0]

    def last_linear(self) -> nn.Linear | None:
        """Return the head's last linear layer, whose inputs are the features of loss terms; None without one."""
        layers = [layer for layer in self._head_layers() if isinstance(layer, nn.Linear)]
        return layers[-1] if layers else None

    def fitted_layer(self) -> nn.Module:
        """Return the layer that closed-form methods fit: the task's own, or the head's one linear layer."""
        return self.task.fitted_layer(self.model) or self.linear_head()

    def features(self, batch: Batch) -> Tensor:
        """Return the input of the layer that closed-form methods fit: of a linear head, (rows, width).

        Raises Unsupported when there is no such layer, or when a linear head is not given one vector for each row.
        """
        seen: list[Tensor] = []
        layer = self.fitted_layer()
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.forward(batch)
        finally:
            hook.remove()
        if len(seen) != 1 or (isinstance(layer, nn.Linear) and seen[0].ndim != 2):
            raise Unsupported(f"the head of {self.task.key()} does not read one vector for each row")
        return seen[0]

    def _head_layers(self) -> Iterator[nn.Module]:
        for name, module in self.model.named_modules():
            if under(name, self.anatomy.head):
                yield module
