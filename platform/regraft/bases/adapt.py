"""A base made ready for a task by a method: the one object that training and serving both hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.batch_norm import mend
from regraft.bases.delta import canonical, moving
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Context, Method, Task, under
from regraft.errors import Unsupported


def adapt(
    task: Task,
    method: Method,
    base: Base,
    *,
    labels: tuple[str, ...],
    seed: int,
    dropout: float | None = None,
    processor: Any = None,
) -> Adapted:
    """Build the task's model on the base and let the method prepare it, in eval mode.

    Seeds torch's global generator, from which everything the base lacks is drawn: the same arguments give the same
    model. `dropout` replaces every dropout probability of the model (a method's own, such as LoRA's, is its field).
    """
    loader = BaseLoader(base, dropout)
    torch.manual_seed(seed)
    model = task.build(loader, labels)
    mend(model)
    if dropout is not None:
        _set_dropout(model, dropout)
    config = getattr(model, "config", loader.config)
    context = Context(processor or load_processor(base, task.modality), tuple(labels), config)
    task.configure(model, context)
    anatomy = _with_missing(_own_head(dissect(model), model, loader.drawn), model, loader.missing)
    method.adapt(model, anatomy)
    for name, parameter in model.named_parameters():
        if under(name, anatomy.idle):
            parameter.requires_grad_(False)
    _refuse_standing_still(model, task, method)
    still = tuple(_still(model, (*method.frozen(model, anatomy), *anatomy.idle), anatomy))
    model.eval()
    return Adapted(model, anatomy, base, task, method, context, moving(model, anatomy, set(still)), still)


def _own_head(anatomy: Anatomy, model: nn.Module, drawn: frozenset[str]) -> Anatomy:
    """Leave a language model's output layer to the base, unless the base's files lack it: it is pretrained too.

    Counted to the head it would train under LoRA and be stored whole with each delta. A classifier is the task's own
    even where the files hold one of the same shape.
    """
    asked: Any = getattr(model, "get_output_embeddings", None)
    if asked is None or asked() is None:
        return anatomy
    return replace(anatomy, head=tuple(entry for entry in anatomy.head if any(under(name, (entry,)) for name in drawn)))


def _refuse_standing_still(model: nn.Module, task: Task, method: Method) -> None:
    """Unsupported when no weight would move: a task that adds no layers to its base has no head to train alone."""
    if not method.closed_form and not any(parameter.requires_grad for parameter in model.parameters()):
        raise Unsupported(
            f"{method.key()} is written, which would move nothing: task {task.key()} adds no layers to a "
            f"{type(model).__name__}; write a method that moves the base's own weights (lora, freeze, full)",
            where="method",
        )


def _with_missing(anatomy: Anatomy, model: nn.Module, missing: frozenset[str]) -> Anatomy:
    """Count layers that the base's files lack (a pooler) to the head: they are new, so they train and are kept."""
    new = {
        name.rpartition(".")[0] or name
        for name, _ in model.named_parameters()
        if canonical(name, anatomy.prefix) in missing and not under(name, anatomy.head)
    }
    return replace(anatomy, head=(*anatomy.head, *sorted(new)))


def _still(model: nn.Module, frozen: tuple[str, ...], anatomy: Anatomy) -> Iterator[nn.Module]:
    """Frozen modules, modules made of nothing else, and any whose buffers go with frozen parameters (BatchNorm).

    And what holds a frozen block inside the base: BART drops out before its first block, by the mode of the parent.
    """
    whole = (*frozen, *_made_of(model, frozen))
    parents = {parent for block in anatomy.blocks if under(block, frozen) for parent in _parents(block, anatomy.prefix)}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        statistics = any(True for _ in module.buffers(recurse=False)) and own
        if (
            name in parents
            or under(name, whole)
            or (statistics and not any(parameter.requires_grad for parameter in own))
        ):
            yield module


def _parents(name: str, prefix: str) -> Iterator[str]:
    """What holds the module inside the base, the base itself left out."""
    while (name := name.rpartition(".")[0]) and name != prefix:
        yield name


def _made_of(model: nn.Module, frozen: tuple[str, ...]) -> Iterator[str]:
    for name, module in model.named_modules():
        below = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if name and below and all(under(parameter, frozen) for parameter in below):
            yield name


def _set_dropout(model: nn.Module, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = probability
