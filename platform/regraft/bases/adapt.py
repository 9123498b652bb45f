"""Adapting a base to a task by a method: the object that training and serving both hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.batch_norm import repair_batch_norm
from regraft.bases.delta import canonical_name, delta_names
from regraft.bases.in_place import write_new_tensors
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.loading_lock import MAKING_A_MODEL
from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Context, Method, Task, under
from regraft.errors import Unsupported


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Everything besides the base that determines an adapted model before its first step."""

    task: Task
    method: Method
    labels: tuple[str, ...]
    seed: int
    """Seeds torch's global generator, from which every weight that the base lacks is initialised."""
    dropout: float | None = None
    """Replaces every dropout probability of the model; those of a method, such as LoRA's, are the method's fields."""


def adapt(base: Base, adaptation: Adaptation, processor: Any = None, *, loader: BaseLoader | None = None) -> Adapted:
    """Build the task's model on the base and let the method prepare it; return it in eval mode.

    The same arguments give the same model. `processor` is the base's tokenizer or image processor where the caller
    has loaded it already; `loader` builds the models, if not with the base's weights. Raises BaseError and Unsupported.
    """
    task, method, labels = adaptation.task, adaptation.method, adaptation.labels
    loader = loader or BaseLoader(base, adaptation.dropout)
    with MAKING_A_MODEL:
        torch.manual_seed(adaptation.seed)
        model = task.build(loader, labels)
    repair_batch_norm(model)
    write_new_tensors(model)
    if adaptation.dropout is not None:
        _set_dropout_layers(model, adaptation.dropout)
    config = getattr(model, "config", loader.config)
    context = Context(processor or load_processor(base, task.modality), labels, config)
    task.configure(model, context)
    anatomy = _add_missing_layers(_without_pretrained_head(model, loader.initialised), model, loader.missing)
    method.adapt(model, anatomy)
    for name, parameter in model.named_parameters():
        if under(name, anatomy.idle):
            parameter.requires_grad_(False)
    _refuse_nothing_to_train(model, task, method)
    frozen = tuple(_frozen_modules(model, (*method.frozen(model, anatomy), *anatomy.idle), anatomy))
    model.eval()
    return Adapted(model, anatomy, base, task, method, context, delta_names(model, anatomy, set(frozen)), frozen)


def narrow(adapted: Adapted, moving: Collection[str], method: Method) -> None:
    """Let those of the parameters `moving` move that `method` does not freeze, in place, until the next call.

    `moving` are the model's names of all parameters that training moves. The delta does not change.
    """
    model, anatomy = adapted.model, adapted.anatomy
    frozen = (*adapted.method.frozen(model, anatomy), *anatomy.idle, *method.frozen(model, anatomy))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in moving and not under(name, frozen))
    adapted.frozen_modules = tuple(_frozen_modules(model, frozen, anatomy))
    adapted.moves = method


def _without_pretrained_head(model: nn.Module, initialised: frozenset[str]) -> Anatomy:
    """Return the model's anatomy, a language model's output layer counted to the base if the base's files hold it.

    As part of the head, that pretrained layer would be trained under LoRA and be stored complete in each delta. A
    classifier belongs to the task even if the files hold one of the same shape.
    """
    anatomy = dissect(model)
    output_layer: Any = getattr(model, "get_output_embeddings", None)
    if output_layer is None or output_layer() is None:
        return anatomy
    head = tuple(entry for entry in anatomy.head if any(under(name, (entry,)) for name in initialised))
    return replace(anatomy, head=head)


def _refuse_nothing_to_train(model: nn.Module, task: Task, method: Method) -> None:
    """Raise Unsupported when no weight would move: the task adds no layers, so there is no head to train alone."""
    if not method.closed_form and not any(parameter.requires_grad for parameter in model.parameters()):
        raise Unsupported(
            f"{method.key()} is written, which would move nothing: task {task.key()} adds no layers to a "
            f"{type(model).__name__}; write a method that moves the base's own weights (lora, freeze, full)",
            where="method",
        )


def _add_missing_layers(anatomy: Anatomy, model: nn.Module, missing: frozenset[str]) -> Anatomy:
    """Count layers that the base's files lack (a pooler) to the head: they are new, so they are trained and stored."""
    new = {
        name.rpartition(".")[0] or name
        for name, _ in model.named_parameters()
        if canonical_name(name, anatomy.prefix) in missing and not under(name, anatomy.head)
    }
    return replace(anatomy, head=(*anatomy.head, *sorted(new)))


def _frozen_modules(model: nn.Module, frozen: tuple[str, ...], anatomy: Anatomy) -> Iterator[nn.Module]:
    """Yield the modules that stay in eval mode.

    They are the frozen modules, modules that contain nothing else, and modules whose buffers are frozen or belong to
    frozen parameters (BatchNorm). The parents of a frozen block inside the base are among them: BART applies dropout
    before its first block, by the mode of the parent.
    """
    complete = (*frozen, *_fully_frozen(model, frozen))
    parents = {parent for block in anatomy.blocks if under(block, frozen) for parent in _parents(block, anatomy.prefix)}
    for name, module in model.named_modules():
        parameters = list(module.parameters(recurse=False))
        statistics = [f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)] if parameters else []
        if (
            name in parents
            or under(name, complete)
            or (statistics and not any(parameter.requires_grad for parameter in parameters))
            or (statistics and all(under(buffer, frozen) for buffer in statistics))
        ):
            yield module


def _parents(name: str, prefix: str) -> Iterator[str]:
    """Yield the names of the modules that contain a module, up to the base and without it."""
    while (name := name.rpartition(".")[0]) and name != prefix:
        yield name


def _fully_frozen(model: nn.Module, frozen: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of modules that have parameters, all of them below the names `frozen`."""
    for name, module in model.named_modules():
        below = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if name and below and all(under(parameter, frozen) for parameter in below):
            yield name


def _set_dropout_layers(model: nn.Module, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = probability
