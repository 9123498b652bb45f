"""Deltas: the tensors in which an adapted model differs from its base, named as in the base."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor

from regraft.contracts import Anatomy, under
from regraft.errors import Damaged, Unsupported

if TYPE_CHECKING:
    from regraft.bases.adapted import Adapted

_WRAPPERS = re.compile(
    r"^module\.|(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|base_layer)\.|(?<=lora_A\.|lora_B\.)default\."
    r"|(?<=lora_magnitude_vector\.)default\.|(?<=ia3_l)\.default$"
)


def canonical_name(name: str, prefix: str) -> str:
    """Return a tensor's name in the base, without prefixes of DDP, torch.compile, PEFT and the task's model."""
    while (bare := _WRAPPERS.sub("", name)) != name:
        name = bare
    return name.removeprefix(f"{prefix}.") if prefix else name


def delta_names(model: nn.Module, anatomy: Anatomy, frozen: Collection[nn.Module]) -> tuple[str, ...]:
    """Return the delta's canonical names: trained parameters, buffers of modules not in `frozen`, and the head.

    Parameters in `anatomy.idle` are left out. Tied tensors count once, under the first of their names. Raises
    Unsupported when two tensors would share a name.
    """
    owners = dict(model.named_modules())
    names: list[str] = []
    for name, tensor in _tensors(model):
        owner = owners[name.rpartition(".")[0]]
        varies = tensor.requires_grad if isinstance(tensor, nn.Parameter) else owner not in frozen
        if (varies and not under(name, anatomy.idle)) or under(name, anatomy.head):
            names.append(canonical_name(name, anatomy.prefix))
    counts = Counter(canonical_name(name, anatomy.prefix) for name, _ in _tensors(model))
    if ambiguous := sorted(name for name in names if counts[name] > 1):
        raise Unsupported(
            f"two tensors of this model have the name {ambiguous[0]!r} without the base's prefix {anatomy.prefix!r}: "
            "rename the one that is not in the base"
        )
    return tuple(names)


def delta_tensors(adapted: Adapted) -> dict[str, Tensor]:
    """Return the delta's current values by canonical name.

    Sharded tensors are gathered, so every rank must call this.
    """
    return {name: _gathered(tensor) for name, tensor in live_tensors(adapted).items()}


def apply_delta(adapted: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Copy a delta's values into the model.

    Raises Damaged, before anything is written, when names, shapes or number types (float or not) differ.
    """
    live = live_tensors(adapted)
    check_fit(live, tensors)
    with torch.no_grad():
        for name, target in live.items():
            target.copy_(_sharded_like(tensors[name], target))


def check_fit(live: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise Damaged when a delta's names, shapes or number types (float or not) differ from those of `live`.

    The values of `live` do not matter, so it may be on the device `meta`.
    """
    if problem := _misfit(live, tensors):
        raise Damaged(f"this delta does not fit: {problem}", where="delta.safetensors")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and persistent buffer once, in the model's order."""
    yield from model.named_parameters()
    owners = dict(model.named_modules())
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if leaf not in owners[owner]._non_persistent_buffers_set:
            yield name, buffer


def live_tensors(adapted: Adapted) -> dict[str, Tensor]:
    """Return the model's tensors that belong to the delta, by canonical name; sharded ones are not gathered."""
    wanted = dict.fromkeys(adapted.delta_names)
    prefix = adapted.anatomy.prefix
    found = {key: tensor for name, tensor in _tensors(adapted.model) if (key := canonical_name(name, prefix)) in wanted}
    if missing := sorted(wanted.keys() - found.keys()):
        raise Unsupported(f"the model no longer holds {missing[0]!r} of its delta: was it merged?")
    return {name: found[name] for name in wanted}


def _misfit(live: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the first difference in names, shapes or number types; empty when there is none."""
    if missing := sorted(live.keys() - tensors.keys()):
        return f"{_first_three(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if unexpected := sorted(tensors.keys() - live.keys()):
        return f"{_first_three(unexpected)} {'is' if len(unexpected) == 1 else 'are'} unexpected"
    for name, target in live.items():
        tensor = tensors[name]
        if tensor.shape != target.shape:
            return f"{name} has shape {tuple(tensor.shape)} and should have {tuple(target.shape)}"
        if tensor.is_floating_point() != target.is_floating_point():
            return f"{name} holds {tensor.dtype} and should hold {target.dtype}"
    return ""


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _gathered(tensor: Any) -> Tensor:
    """Return the tensor, gathered if it is sharded (a collective operation: every rank must call it)."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def _sharded_like(values: Tensor, target: Any) -> Tensor:
    """Return `values`, sharded as `target` is. Every rank must pass the complete values."""
    if not hasattr(target, "device_mesh"):
        return values
    moved = values.to(target.device)
    sharded: Tensor = distribute_tensor(moved, target.device_mesh, target.placements, src_data_rank=None)
    return sharded
