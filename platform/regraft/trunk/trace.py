"""A forward pass up to the first module that training changes: the modules that had finished, and their outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import TreeSpec, tree_flatten

from regraft.bases.adapted import Adapted
from regraft.contracts import Batch


@dataclass(frozen=True, slots=True)
class Call:
    """A module that was called once and returned before the cut."""

    name: str
    leaves: tuple[Any, ...]
    """Its output, flattened: tensors and other values."""
    tree: TreeSpec
    given: tuple[int | None, ...] = ()
    """Length of axis 0 of each argument, flattened; None for an argument that is not a tensor."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One pass: the outermost finished modules in order of completion, and the model's output tensors."""

    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]


def live_modules(adapted: Adapted) -> frozenset[str]:
    """Return the modules whose function changes between steps: they train, drop out, or gather statistics."""
    adapted.train_mode()
    live = frozenset(name for name, module in adapted.model.named_modules() if _moves(module))
    adapted.eval_mode()
    return live


def record(adapted: Adapted, batch: Batch, live: frozenset[str]) -> Trace:
    """Run one forward pass in eval mode and record what had finished when the first `live` module was entered."""
    recorder = _Recorder(live)
    with _hooked(adapted.model, recorder), torch.no_grad():
        outputs = adapted.forward(batch)
    return Trace(tuple(recorder.outermost()), tensors_in(outputs))


def tensors_in(tree: Any) -> tuple[Tensor, ...]:
    """Return the floating-point tensors of a model's output in order; an object of another class by its attributes."""
    leaves, _ = tree_flatten(tree)
    if leaves == [tree] and not isinstance(tree, Tensor):
        leaves, _ = tree_flatten(dict(vars(tree)))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _moves(module: nn.Module) -> bool:
    if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        return True
    if not module.training:
        return False
    return isinstance(module, _BatchNorm) or (isinstance(module, _DropoutNd) and module.p > 0)


class _Recorder:
    """Records calls in the order in which they end, until a live module begins."""

    def __init__(self, live: frozenset[str]) -> None:
        self._live, self._over = live, False
        self._open: list[str] = []
        self._count: dict[str, int] = {}
        self._done: dict[str, Call] = {}

    def enter(self, name: str) -> None:
        self._count[name] = self._count.get(name, 0) + 1
        self._over = self._over or name in self._live
        self._open.append(name)

    def leave(self, name: str, given: Any, output: Any) -> None:
        self._open.remove(name)
        if not self._over:
            leaves, tree = tree_flatten(output)
            lengths = [len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in tree_flatten(given)[0]]
            self._done[name] = Call(name, tuple(leaves), tree, tuple(lengths))

    def outermost(self) -> Iterator[Call]:
        """Yield the modules that were called once and lie inside no other such module."""
        once = [call for name, call in self._done.items() if name and self._count[name] == 1]
        names = {call.name for call in once}
        for call in once:
            if not any(parent in names for parent in _parents(call.name)):
                yield call


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


@contextmanager
def _hooked(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.enter(name)))
        hooks.append(
            module.register_forward_hook(
                lambda _, args, kwargs, output, name=name: recorder.leave(name, (args, kwargs), output),
                with_kwargs=True,
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
