"""How do many models hold one copy of their base?

`Weights` are the base's tensors by its own names. A `Frame` is a task model without weights of its own: all that is the
base's are those very tensors, and what a delta holds is put in its places for the moment of a pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from regraft.bases.adapted import Adapted
from regraft.bases.delta import canonical, live_tensors
from regraft.bases.locate import Base

Delta = Mapping[str, Tensor]
"""What a version moved, by canonical name."""
_Place = tuple[dict[str, Any], str]
"""Where a tensor stands: a module's own table of parameters or buffers, and its name there."""


class Weights:
    """The one resident copy of a base, on one device in one precision."""

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self.base, self.device, self.dtype = base, device, dtype
        self.carriers: WeakSet[Frame] = WeakSet()
        """Frames that hold the base as it is, and so can compute it for others."""
        self._held: dict[str, Tensor] = {}

    def arithmetic(self) -> AbstractContextManager[None]:
        """Every pass of its models runs inside."""
        return arithmetic(self.device, self.dtype)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in self._held.values()}.values())

    def share(self, adapted: Adapted, moved: Collection[tuple[int, str]]) -> None:
        """Let a model hold these tensors in place of its equal ones, and keep those that were not here yet.

        What stands in the places `moved` each delta brings along: the model's own values of it are nobody's.
        """
        prefix = adapted.anatomy.prefix
        for name, (table, leaf) in places(adapted.model):
            if (id(table), leaf) in moved:
                continue
            tensor, key = table[leaf], canonical(name, prefix)
            held = self._held.get(key)
            if held is not None and equal(held, tensor):
                table[leaf] = held
            elif held is None and (not prefix or name.startswith(f"{prefix}.")):
                self._held[key] = tensor.requires_grad_(False)

    def spared(self, delta: Delta) -> dict[str, Tensor]:
        """The delta with the base's own tensors wherever training left a value as it was."""
        return {
            name: held if (held := self._held.get(name)) is not None and equal(held, tensor) else tensor
            for name, tensor in delta.items()
        }

    def own(self, delta: Delta) -> int:
        """Bytes of a delta that are not the base's."""
        return sum(tensor.nbytes for name, tensor in delta.items() if self._held.get(name) is not tensor)


class Frame:
    """A task model on the resident base, which wears one delta at a time. Passes are one thread's at a time."""

    def __init__(self, adapted: Adapted, weights: Weights) -> None:
        self.adapted, self.weights = adapted, weights
        self.reading = Lock()
        """Held while its tokenizer works: those of transformers are one thread's at a time, and many models read with
        this one."""
        live = live_tensors(adapted)
        self.like = {name: tensor.to("meta") for name, tensor in live.items()}
        """The delta's shapes."""
        self._slots = _slots(adapted.model, live)
        placed(adapted.model, weights.device, weights.dtype)
        weights.share(adapted, {(id(table), leaf) for stand in self._slots.values() for table, leaf in stand})
        adapted.eval_mode()

    def wear(self, delta: Delta) -> None:
        """Put a delta's tensors in their places, tied ones in all of them; nothing is copied."""
        for name, stand in self._slots.items():
            for table, leaf in stand:
                table[leaf] = delta[name]


@contextmanager
def arithmetic(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside, models of that precision are computed, without gradients; where they mix it with fp32, as for a mean over
    tokens, the matrix products behind it are in their precision again."""
    quick = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=quick, cache_enabled=False):
        yield


def placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model; its parameters and running statistics take the precision, tables that were computed keep theirs."""
    model.to(device)
    if dtype == torch.float32:
        return
    tied: dict[int, tuple[Any, Any]] = {}  # the old one too: once it is gone, another may have its id
    for _, (table, leaf) in places(model):
        before = table[leaf]
        table[leaf] = tied.setdefault(id(before), (before, converted(before, dtype)))[1]


def converted(tensor: Tensor, dtype: torch.dtype) -> Any:
    """A tensor in the precision, if it holds fractions at all; a parameter stays one."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().to(dtype), requires_grad=tensor.requires_grad)
    return tensor.to(dtype)


def places(model: nn.Module) -> Iterator[tuple[str, _Place]]:
    """Every parameter and persistent buffer under each of its names."""
    for name, module in model.named_modules():
        dot = f"{name}." if name else ""
        for leaf, tensor in module._parameters.items():
            if tensor is not None:
                yield dot + leaf, (module._parameters, leaf)
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield dot + leaf, (module._buffers, leaf)


def _slots(model: nn.Module, live: Mapping[str, Tensor]) -> dict[str, list[_Place]]:
    of = {id(tensor): name for name, tensor in live.items()}
    found: dict[str, list[_Place]] = defaultdict(list)
    for _, (table, leaf) in places(model):
        if (name := of.get(id(table[leaf]))) is not None:
            found[name].append((table, leaf))
    return dict(found)


def equal(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are of one shape and type and hold the same values."""
    if one is two:
        return True
    return one.shape == two.shape and one.dtype == two.dtype and bool(torch.equal(one, two))
