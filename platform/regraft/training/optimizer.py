"""The optimizer: parameter groups, the learning-rate schedule, and its state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from regraft.contracts import Anatomy, under
from regraft.errors import Damaged
from regraft.spec.sections import TrainingSpec, number_of


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    anatomy: Anatomy,
    training: TrainingSpec,
    decays: Callable[[str], bool] = lambda name: True,
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups of equal learning rate and weight decay.

    Learning rates decay by layer (Howard and Ruder, 2018). The head has `lr * head_factor`, layers above the blocks
    `lr`, block i of n `lr * layer_decay ** (n - i)`, and the stem `lr * layer_decay ** (n + 1)`. Vectors (biases,
    norms) are exempt from weight decay, as is every parameter whose name `decays` denies.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decay = training.weight_decay if parameter.ndim > 1 and decays(name) else 0.0
            groups.setdefault((factor(name, anatomy, training), decay), []).append(parameter)
    rate = number_of(training.lr)
    return [
        {"params": members, "lr": rate * scale, "peak": rate * scale, "weight_decay": decay}
        for (scale, decay), members in groups.items()
    ]


def factor(name: str, anatomy: Anatomy, training: TrainingSpec) -> float:
    """Return a parameter's factor of the learning rate."""
    if under(name, anatomy.head):
        return number_of(training.head_factor)
    if under(name, anatomy.stem):
        return training.layer_decay ** (len(anatomy.blocks) + 1)
    for number in range(len(anatomy.blocks)):
        if under(name, anatomy.members(number)):
            return training.layer_decay ** (len(anatomy.blocks) - number)
    return 1.0


def build_optimizer(groups: list[dict[str, Any]], training: TrainingSpec) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum, over the groups."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups, fused=True)


def schedule(step: int, steps: int, training: TrainingSpec) -> float:
    """Return the share of the peak learning rate at a step, counted from 0."""
    warm = round(number_of(training.warmup) * steps)
    if step < warm:
        return (step + 1) / warm
    if training.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    if training.schedule == "linear":
        return max(0.0, 1.0 - done)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set every group to a share of its peak learning rate, and return the largest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return max(float(group["lr"]) for group in optimizer.param_groups)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Return the optimizer's live state tensors by `<parameter>|<entry>`."""
    tensors = {}
    for parameter, name in names.items():
        for entry, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                tensors[f"{name}|{entry}"] = value.detach()
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Restore a saved state; raises Damaged when an entry belongs to no parameter."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, entry = key.rpartition("|")
        if name not in parameters:
            raise Damaged(f"the optimizer's entry {key!r} belongs to no parameter of this run", where="checkpoint")
        parameter = parameters[name]
        if value.ndim == 0:
            value = value.to(parameter.device)  # the fused optimizer keeps `step` on the parameter's device
        elif isinstance(parameter, DTensor):
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        else:
            value = value.to(parameter.device)
        optimizer.state[parameter][entry] = value
