"""One forward pass for rows of many models, each with its own LoRA factors and its own linear head.

y = Wx + B(Ax), with A and B of the row's model. The base's product is computed for all rows at once and the factors' by
batched matrix products, as in Punica (Chen et al., 2024). Smaller ranks are padded with zeros; layers that a model does
not adapt, and rows without a model, get factors of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from regraft.bases.adapted import Adapted
from regraft.bases.delta import canonical_name
from regraft.contracts import under
from regraft.units import with_article

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""By the layer's canonical name: A (rank, inputs), and B (outputs, rank) times the scaling."""


class NotStackable(Exception):
    """The rows of several models cannot be computed in one pass; the message gives the reason."""


def lora_factors(adapted: Adapted, delta: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the LoRA factors in a delta of this model.

    Raises NotStackable unless the delta holds plain linear layers' factors and the head only.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    unread = set(delta)
    for name, layer in adapted.model.named_modules():
        if isinstance(layer, LoraLayer):
            key = canonical_name(name, adapted.anatomy.prefix)
            scaling = _scaling(name, layer)
            names = f"{key}.lora_A.weight", f"{key}.lora_B.weight"
            if not unread.issuperset(names):
                raise NotStackable(f"the factors of {name} are not in its delta")
            unread.difference_update(names)
            down, up = (delta[part] for part in names)
            found[key] = down, up * scaling
    if unknown := sorted(name for name in unread if not under(name, _heads(adapted))):
        raise NotStackable(f"its delta also holds {unknown[0]}, which is neither a LoRA factor nor part of the head")
    if not found:
        raise NotStackable("there are no LoRA factors in its delta")
    return found


def head_tensors(adapted: Adapted, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a delta that belong to the task's head."""
    return {name: tensor for name, tensor in delta.items() if under(name, _heads(adapted))}


def linear_heads(adapted: Adapted, names: Sequence[str]) -> dict[str, str]:
    """Return the layers that hold the tensors `names`: module names by canonical ones.

    Raises NotStackable unless all of them are plain linear layers.
    """
    owners = {canonical_name(name, adapted.anatomy.prefix): name for name, _ in adapted.model.named_modules()}
    found: dict[str, str] = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        layer = adapted.model.get_submodule(owners[owner]) if owner in owners else None
        if type(layer) is not nn.Linear or leaf not in ("weight", "bias"):
            raise NotStackable(f"{name} belongs to no plain linear layer")
        found[owner] = owners[owner]
    return found


@contextmanager
def row_factors(adapted: Adapted, rows: Sequence[Factors | None]) -> Iterator[None]:
    """Add each row's own factors to the model's forward passes on a batch of these rows, within the block."""
    prefix = f"{adapted.anatomy.prefix}." if adapted.anatomy.prefix else ""
    names = dict.fromkeys(name for factors in rows if factors for name in factors)
    hooks = []
    try:
        for name in names:
            layer = adapted.model.get_submodule(prefix + name)
            pairs = [factors.get(name) if factors else None for factors in rows]
            hooks.append(layer.register_forward_hook(_factors_hook(*stacked_factors(pairs))))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def per_row_heads(adapted: Adapted, layers: Mapping[str, str], rows: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """Compute each row with its own weights of the head's linear layers (`linear_heads`), within the block."""
    changed = []
    try:
        for key, name in layers.items():
            layer = adapted.model.get_submodule(name)
            weight = torch.stack([head[f"{key}.weight"] for head in rows])
            bias = torch.stack([head[f"{key}.bias"] for head in rows]) if f"{key}.bias" in rows[0] else None
            layer.forward = _per_row_linear(weight, bias)
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def stacked_factors(pairs: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor]:
    """Return A (rows, rank, inputs) and B (rows, outputs, rank) of one layer.

    Missing factors, and the ranks that a row lacks, are zeros.
    """
    present = [pair for pair in pairs if pair is not None]
    first = present[0]
    if len(present) == len(pairs) and all(pair[0].shape == first[0].shape for pair in present):
        return torch.stack([pair[0] for pair in present]), torch.stack([pair[1] for pair in present])
    rank = max(len(down) for down, _ in present)
    downs = first[0].new_zeros(len(pairs), rank, first[0].shape[1])
    ups = first[1].new_zeros(len(pairs), len(first[1]), rank)
    for row, pair in enumerate(pairs):
        if pair is not None:
            downs[row, : len(pair[0])], ups[row, :, : len(pair[0])] = pair
    return downs, ups


def _factors_hook(downs: Tensor, ups: Tensor) -> Callable[..., Tensor]:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # Swin's windows of a row lie one after the other in the first axis.
        rows = _by_row(args[0], len(downs))
        found = torch.baddbmm(_by_row(output, len(downs)), torch.bmm(rows, downs.mT), ups.mT)
        return found.reshape(output.shape)

    return hook


def _per_row_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        rows = _by_row(input, len(weight))
        found = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
        return found.reshape(*input.shape[:-1], weight.shape[1])

    return forward


def _by_row(values: Tensor, rows: int) -> Tensor:
    """Return values as (rows, positions, width); NotStackable where the first axis does not divide into the rows."""
    if not values.ndim or len(values) % rows:
        raise NotStackable(f"a layer gets {tuple(values.shape)}, which cannot be divided into {rows} rows")
    return values.reshape(rows, -1, values.shape[-1])


def _scaling(name: str, layer: Any) -> float:
    inner = layer.get_base_layer()
    if type(inner) not in (nn.Linear, Conv1D):
        raise NotStackable(f"{name} is {with_article(type(inner).__name__)}, not a plain linear layer")
    if list(layer.lora_A) != ["default"] or layer.use_dora.get("default") or layer.merged_adapters:
        raise NotStackable(f"the factors of {name} do more than add a low-rank product")
    if (getattr(layer, "lora_bias", None) or {}).get("default"):
        raise NotStackable(f"the factors of {name} have a bias")
    return float(layer.scaling["default"])


def _heads(adapted: Adapted) -> tuple[str, ...]:
    return tuple(canonical_name(name, adapted.anatomy.prefix) for name in adapted.anatomy.head)
