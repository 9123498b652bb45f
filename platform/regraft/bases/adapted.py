"""TODO"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Batch, Context, Method, Task, under
from regraft.errors import Unsupported


class StandsIn(Protocol):
    """Something that stands in for a model's frozen part."""

    def standing_in(self, batch: Batch) -> AbstractContextManager[None]:
        """Inside, a forward pass on the batch begins behind the frozen part."""
        ...


def inputs_of(batch: Batch) -> Batch:
    """What of a batch is passed to the model."""
    return {name: value for name, value in batch.items() if name not in ("labels", "kept")}


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
    """Canonical names of what the delta holds."""
    still: tuple[nn.Module, ...] = field(default=(), repr=False)
    """Modules that stay the base's own function and so are never in train mode."""
    trunk: StandsIn | None = field(default=None, repr=False)
    """What hands back the outputs of the frozen part instead of computing them, where that is so."""

    def train_mode(self) -> None:
        """Train mode, but for what stays the base's: there dropout is off and running statistics are read only."""
        self.model.train()
        for module in self.still:
            module.training = False

    def eval_mode(self) -> None:
        """Dropout off, running statistics read only."""
        self.model.eval()

    def forward(self, batch: Batch) -> Any:
        """The model's output for a batch on the model's device; its `labels` are not passed."""
        with self.from_trunk(batch):
            return self.model(**inputs_of(batch))

    def from_trunk(self, batch: Batch) -> AbstractContextManager[None]:
        """Inside, the model begins where the batch's `kept` values stand in for what is frozen, if it has any."""
        return nullcontext() if self.trunk is None or "kept" not in batch else self.trunk.standing_in(batch)

    def linear_head(self) -> nn.Linear:
        """The head's one linear layer; Unsupported when the head is anything else."""
        layers = [layer for layer in self._head_layers() if any(True for _ in layer.parameters(recurse=False))]
        if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
            kinds = ", ".join(type(layer).__name__ for layer in layers) or "nothing"
            raise Unsupported(f"this needs a head of one linear layer; the head of {self.task.key()} holds {kinds}")
        return layers[0]

    def features(self, batch: Batch) -> Tensor:
        """What the head's one linear layer sees, (rows, width); Unsupported when there is no such layer."""
        seen: list[Tensor] = []
        hook = self.linear_head().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.forward(batch)
        finally:
            hook.remove()
        if len(seen) != 1 or seen[0].ndim != 2:
            raise Unsupported(f"the head of {self.task.key()} does not see one vector a row")
        return seen[0]

    def _head_layers(self) -> Iterator[nn.Module]:
        for name, module in self.model.named_modules():
            if under(name, self.anatomy.head):
                yield module
