"""What an adapted model holds beyond its base, under the base's own names."""

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
    r"|(?<=lora_magnitude_vector\.)default\."
)


def canonical(name: str, prefix: str) -> str:
    """The base's own name of a tensor: without wrappers' words (DDP, torch.compile, PEFT) and the base's prefix."""
    while (bare := _WRAPPERS.sub("", name)) != name:
        name = bare
    return name.removeprefix(f"{prefix}.") if prefix else name


def moving(model: nn.Module, anatomy: Anatomy, still: Collection[nn.Module]) -> tuple[str, ...]:
    """The delta's canonical names: trained parameters, buffers of modules not in `still`, and all of the head.

    Tied tensors count once, under the first of their names. Unsupported when two tensors would share a name.
    """
    owners = dict(model.named_modules())
    names: list[str] = []
    for name, tensor in _tensors(model):
        owner = owners[name.rpartition(".")[0]]
        moves = tensor.requires_grad if isinstance(tensor, nn.Parameter) else owner not in still
        if (moves and not under(name, anatomy.idle)) or under(name, anatomy.head):
            names.append(canonical(name, anatomy.prefix))
    everything = Counter(canonical(name, anatomy.prefix) for name, _ in _tensors(model))
    if twice := sorted(name for name in names if everything[name] > 1):
        raise Unsupported(
            f"two tensors of this model are both called {twice[0]!r} once the base's prefix {anatomy.prefix!r} is "
            "taken off: rename the one that is not the base's"
        )
    return tuple(names)


def delta_tensors(adapted: Adapted) -> dict[str, Tensor]:
    """The delta's live tensors by canonical name; a sharded one is gathered, so every rank must call this."""
    return {name: _whole(tensor) for name, tensor in live_tensors(adapted).items()}


def apply_delta(adapted: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Copy a delta's values in; Damaged, before anything is written, when it does not fit name by name."""
    live = live_tensors(adapted)
    refuse_misfit(live, tensors)
    with torch.no_grad():
        for name, target in live.items():
            target.copy_(_like(tensors[name], target))


def refuse_misfit(live: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Damaged when a delta does not fit tensors like these name by name; their values do not matter (`meta`)."""
    if problem := _misfit(live, tensors):
        raise Damaged(f"this delta does not fit: {problem}", where="delta.safetensors")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and persistent buffer once, in the model's order."""
    yield from model.named_parameters()
    owners = dict(model.named_modules())
    for name, buffer in model.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if leaf not in owners[owner]._non_persistent_buffers_set:
            yield name, buffer


def live_tensors(adapted: Adapted) -> dict[str, Tensor]:
    """The delta's live tensors by canonical name, sharded ones as they are."""
    wanted = dict.fromkeys(adapted.delta_names)
    prefix = adapted.anatomy.prefix
    found = {key: tensor for name, tensor in _tensors(adapted.model) if (key := canonical(name, prefix)) in wanted}
    if missing := sorted(wanted.keys() - found.keys()):
        raise Unsupported(f"the model no longer holds {missing[0]!r} of its delta: was it merged?")
    return {name: found[name] for name in wanted}


def _misfit(live: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    if missing := sorted(live.keys() - given.keys()):
        return f"{_some(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if unexpected := sorted(given.keys() - live.keys()):
        return f"{_some(unexpected)} {'is' if len(unexpected) == 1 else 'are'} unexpected"
    for name, target in live.items():
        there, here = given[name], target
        if there.shape != here.shape:
            return f"{name} has shape {tuple(there.shape)} and should have {tuple(here.shape)}"
        if there.is_floating_point() != here.is_floating_point():
            return f"{name} holds {there.dtype} and should hold {here.dtype}"
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _whole(tensor: Any) -> Tensor:
    """The tensor itself, or all of a sharded one (a collective: every rank calls it)."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _like(values: Tensor, target: Any) -> Tensor:
    """`values`, cut as `target` is when that is sharded; every rank already holds all of them."""
    if not hasattr(target, "device_mesh"):
        return values
    cut: Tensor = distribute_tensor(values.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    return cut
