"""Resident base weights that many models share, and frames: task models whose tensors are those very weights.

`BaseWeights` holds a base's tensors by their canonical names. A `Frame` is a task model without weights of its own:
every tensor of the base is shared, and a delta's tensors are put in their places for one forward pass.
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
from regraft.bases.delta import canonical_name, live_tensors
from regraft.bases.locate import Base

Delta = Mapping[str, Tensor]
"""The tensors that a version moved, by canonical name."""
_Slot = tuple[dict[str, Any], str]
"""A place for a tensor: a module's table of parameters or buffers, and the name in that table."""


class BaseWeights:
    """The one resident copy of a base, on one device in one precision."""

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self.base, self.device, self.dtype = base, device, dtype
        self.prefix_frames: WeakSet[Frame] = WeakSet()
        """Frames that hold the unchanged base, and so can compute the shared prefix for other models."""
        self._tensors: dict[str, Tensor] = {}

    def inference_context(self) -> AbstractContextManager[None]:
        """Return the context for forward passes of this base's models: no gradients, the base's precision."""
        return inference_context(self.device, self.dtype)

    @property
    def nbytes(self) -> int:
        """Size in bytes; tied tensors count once."""
        return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in self._tensors.values()}.values())

    def share(self, adapted: Adapted, moved: Collection[tuple[int, str]]) -> None:
        """Replace a model's tensors by the resident ones that equal them, and keep those that were not yet resident.

        The slots in `moved` are skipped: each delta brings their tensors along, so the model's own values are unused.
        """
        prefix = adapted.anatomy.prefix
        for name, (table, leaf) in tensor_slots(adapted.model):
            if (id(table), leaf) in moved:
                continue
            tensor, key = table[leaf], canonical_name(name, prefix)
            resident = self._tensors.get(key)
            if resident is not None and same_tensor(resident, tensor):
                table[leaf] = resident
            elif resident is None and (not prefix or name.startswith(f"{prefix}.")):
                self._tensors[key] = tensor.requires_grad_(False)

    def deduplicated(self, delta: Delta) -> dict[str, Tensor]:
        """Return the delta with the resident tensor in place of every value that training left unchanged."""
        return {
            name: resident
            if (resident := self._tensors.get(name)) is not None and same_tensor(resident, tensor)
            else tensor
            for name, tensor in delta.items()
        }

    def unshared_bytes(self, delta: Delta) -> int:
        """Return the bytes of a delta that it does not share with the base."""
        return sum(tensor.nbytes for name, tensor in delta.items() if self._tensors.get(name) is not tensor)


class Frame:
    """A task model on the resident base that holds one delta at a time; one thread at a time computes with it."""

    def __init__(self, adapted: Adapted, weights: BaseWeights) -> None:
        self.adapted, self.weights = adapted, weights
        self.tokenizer_lock = Lock()
        """Held while the tokenizer runs: it is not thread-safe, and many models share this one."""
        live = live_tensors(adapted)
        self.delta_shapes = {name: tensor.to("meta") for name, tensor in live.items()}
        """The delta's tensors on the meta device: shapes and types."""
        self._slots = _delta_slots(adapted.model, live)
        move_model(adapted.model, weights.device, weights.dtype)
        weights.share(adapted, {(id(table), leaf) for slots in self._slots.values() for table, leaf in slots})
        adapted.eval_mode()

    def load_delta(self, delta: Delta) -> None:
        """Put a delta's tensors in their slots, tied ones in all of them; nothing is copied."""
        for name, slots in self._slots.items():
            for table, leaf in slots:
                table[leaf] = delta[name]


@contextmanager
def inference_context(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run the block without gradients and in this precision.

    Autocast is on for bf16: where a model mixes it with fp32, such as a mean over tokens, the matrix products after it
    run in bf16 again.
    """
    bf16 = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
        yield


def move_model(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to a device; parameters and running statistics are cast, computed tables keep their precision."""
    model.to(device)
    if dtype == torch.float32:
        return
    tied: dict[int, tuple[Any, Any]] = {}  # with the old tensor: once it is freed, another may get its id
    for _, (table, leaf) in tensor_slots(model):
        before = table[leaf]
        table[leaf] = tied.setdefault(id(before), (before, cast_tensor(before, dtype)))[1]


def cast_tensor(tensor: Tensor, dtype: torch.dtype) -> Any:
    """Return a floating-point tensor in this precision, and any other as it is; a parameter stays a parameter."""
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().to(dtype), requires_grad=tensor.requires_grad)
    return tensor.to(dtype)


def tensor_slots(model: nn.Module) -> Iterator[tuple[str, _Slot]]:
    """Yield the slot of every parameter and persistent buffer, under each of its names."""
    for name, module in model.named_modules():
        dot = f"{name}." if name else ""
        for leaf, tensor in module._parameters.items():
            if tensor is not None:
                yield dot + leaf, (module._parameters, leaf)
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                yield dot + leaf, (module._buffers, leaf)


def _delta_slots(model: nn.Module, live: Mapping[str, Tensor]) -> dict[str, list[_Slot]]:
    names = {id(tensor): name for name, tensor in live.items()}
    found: dict[str, list[_Slot]] = defaultdict(list)
    for _, (table, leaf) in tensor_slots(model):
        if (name := names.get(id(table[leaf]))) is not None:
            found[name].append((table, leaf))
    return dict(found)


def same_tensor(one: Tensor, two: Tensor) -> bool:
    """Return whether two tensors have the same shape, type and values."""
    if one is two:
        return True
    return one.shape == two.shape and one.dtype == two.dtype and bool(torch.equal(one, two))
