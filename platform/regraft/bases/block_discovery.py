"""Discover the blocks of a model family without a rule, in its module tree, and verify them by a forward pass.

The blocks are the members of lists of layers. A base without any (VGG's convolutions, Inception's mixed layers) has its
modules taken apart as far as they run one after the other.

The modules of a list may run in parallel (a decoder's projections of each stage), in another order, or many times. So a
forward pass on a dummy input records each call of a candidate. Autograd's graph is then walked back from the
candidate's inputs, and must lead through the candidate before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from regraft.bases.dummy_inputs import dummy_inputs
from regraft.contracts import Anatomy, under

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
Node = Any
"""A node of autograd's graph."""


class NoBlocks(Exception):
    """No chain of blocks was found; the message says why."""


def discover_blocks(model: nn.Module, prefix: str, head: tuple[str, ...] = ()) -> Anatomy:
    """Find the stem, the blocks and the modules that belong to each, in the base at `prefix`, by one forward pass.

    The stem holds the modules outside the first block that its output depends on. `beside` holds the same for each
    later block, without modules that belong to earlier ones. No output depends on the modules in `idle`. The pass
    takes a few tokens or a small image; the model's modes, weights and statistics do not change. `head` names the
    task's layers, which may be inside the base. Raises NoBlocks.
    """
    base = model.get_submodule(prefix)
    candidates = [units for units in _lists(base, prefix) if units]
    if not candidates and not any(True for _ in base.children()):
        raise NoBlocks("it holds no list of layers")
    with _state_preserved(model):
        trace = _ForwardTrace(model, prefix)
        runs = _runs(trace, candidates) if candidates else [steps] if (steps := _steps(trace, prefix, head)) else []
        blocks = _heaviest(trace, runs, candidates)
        stem, *beside = trace.owners(blocks)
        idle = trace.unused(blocks)
        stem = (*stem, *trace.dropouts(blocks[0], stem))
    return Anatomy(prefix, stem, blocks, (), "", ((), *beside) if any(beside) else (), idle)


class _ForwardTrace:
    """A recorded forward pass: each module's call times, inputs and outputs, as nodes of autograd's graph."""

    def __init__(self, model: nn.Module, prefix: str) -> None:
        self.modules = dict(model.named_modules())
        self.prefix = prefix
        self.names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
        self.calls: dict[str, int] = {}
        self.inputs_at: dict[str, tuple[int, list[Node]]] = {}
        self.outputs_at: dict[str, tuple[int, list[Node]]] = {}
        self._clock = 0
        hooks = []
        for name, module in self.modules.items():
            hooks.append(module.register_forward_pre_hook(self._record_inputs(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(self._record_outputs(name)))
        try:
            self.outputs = _nodes(_run(model, self.modules[prefix], self._forget))
        finally:
            for hook in hooks:
                hook.remove()

    def _forget(self) -> None:
        """Forget the calls of a pass that failed."""
        for record in (self.calls, self.inputs_at, self.outputs_at):
            record.clear()

    def _record_inputs(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._clock += 1
            self.calls[name] = self.calls.get(name, 0) + 1
            self.inputs_at[name] = self._clock, _nodes((args, kwargs))

        return hook

    def _record_outputs(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._clock += 1
            self.outputs_at[name] = self._clock, _nodes(output)

        return hook

    def follows(self, later: str, earlier: str) -> bool:
        """Return whether `later` ran after `earlier`, on an input that depends on the weights of `earlier`."""
        if self.inputs_at[later][0] < self.outputs_at[earlier][0]:
            return False
        weights = set(self.modules[earlier].parameters())
        return any(getattr(node, "variable", None) in weights for node in _walk(self.inputs_at[later][1]))

    def has_residual(self, outer: str, last: str) -> bool:
        """Return whether the input of `outer` reaches its output on a path that skips its inner module `last`."""
        inputs = {id(node) for node in self.inputs_at[outer][1]}
        return any(id(node) in inputs for node in _walk(self.outputs_at[outer][1], stop=self.outputs_at[last][1]))

    def owners(self, blocks: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Return for each block the other modules that its output depends on and no earlier block's does."""
        seen: set[Node] = set()
        found = []
        for block in blocks:
            reached = {
                self.names.get(getattr(node, "variable", None), "") for node in _walk(self.outputs_at[block][1], seen)
            }
            found.append(self._largest({name for name in reached if name and not under(name, blocks)}))
        return found

    def unused(self, blocks: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parts of the base that no output depends on.

        They are modules outside the blocks, and whole blocks (the last ones of BEiT, if a segmenter reads earlier
        ones). A part of a block is never listed: it may be an expert that this input was not routed to.
        """
        reached = {self.names.get(getattr(node, "variable", None)) for node in _walk(self.outputs)}
        inside = {name for name in self.names.values() if not self.prefix or under(name, (self.prefix,))}
        used = [block for block in blocks if any(under(str(name), (block,)) for name in reached)]
        return self._largest({name for name in inside - reached if not under(name, used)})

    def dropouts(self, first: str, stem: tuple[str, ...]) -> Iterator[str]:
        """Yield separate dropout modules before the first block: they must be off in the trunk."""
        for name, module in self.modules.items():
            alone = isinstance(module, _DropoutNd) and self.calls.get(name) == 1 and not under(name, stem)
            if alone and self.inputs_at[name][0] < self.inputs_at[first][0]:
                yield name

    def holds_weights_beside(self, name: str, head: tuple[str, ...]) -> bool:
        """Return whether a module has parameters that are not the head's."""
        return any(not under(f"{name}.{inner}", head) for inner, _ in self.modules[name].named_parameters())

    def count_weights(self, names: Iterable[str]) -> int:
        """Return the number of weights in the modules."""
        return sum(parameter.numel() for name in names for parameter in self.modules[name].parameters())

    def _largest(self, names: set[str]) -> tuple[str, ...]:
        """Return the smallest set of modules and parameters of the base that holds exactly these parameters."""
        return tuple(_cover(self.modules[self.prefix], self.prefix, names, set(self.names.values())))


def _cover(module: nn.Module, at: str, names: set[str], known: set[str]) -> Iterator[str]:
    """Yield the largest modules and parameters below `at` that hold only parameters in `names`."""
    own = {f"{at}.{name}" if at else name for name, _ in module.named_parameters()} & known
    if at and own and own <= names:
        yield at
    elif own & names:
        yield from (name for name, _ in module.named_parameters(at, recurse=False) if name in names)
        for name, child in module.named_children():
            yield from _cover(child, f"{at}.{name}" if at else name, names, known)


def _lists(module: nn.Module, at: str) -> Iterator[list[str]]:
    """Yield the members of each outermost list of modules whose members contain submodules."""
    for name, child in module.named_children():
        inner = f"{at}.{name}" if at else name
        layers = {f"{inner}.{key}": layer for key, layer in child.named_children()}
        if isinstance(child, nn.ModuleList | nn.Sequential) and all(map(_is_layer, layers.values())):
            yield list(layers)
        else:
            yield from _lists(child, inner)


def _lists_of(unit: nn.Module, at: str) -> Iterator[list[str]]:
    """Yield the lists inside a unit, or the members of one that is a sequence of layers itself (EfficientNet's)."""
    if type(unit) is nn.Sequential and all(map(_is_layer, unit)):
        yield [f"{at}.{name}" for name, _ in unit.named_children()]
    else:
        yield from _lists(unit, at)


def _is_layer(module: nn.Module) -> bool:
    bare = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return not bare and any(True for _ in module.children()) and any(True for _ in module.parameters())


def _runs(trace: _ForwardTrace, candidates: list[list[str]]) -> list[list[str]]:
    """Return the lists that are chains, split into their finest units, and joined if one feeds the next."""
    chains = [_finest_units(trace, units) for units in candidates if not _chain_problem(trace, units)]
    runs: list[list[str]] = []
    for units in sorted(chains, key=lambda units: trace.inputs_at[units[0]][0]):
        if runs and trace.follows(units[0], runs[-1][-1]):
            runs[-1].extend(units)
        else:
            runs.append(units)
    return runs


def _chain_problem(trace: _ForwardTrace, units: list[str]) -> str:
    """Return the reason why a list is not a chain; empty when it is one."""
    for unit in units:
        if (calls := trace.calls.get(unit, 0)) != 1 or unit not in trace.outputs_at:
            return f"{unit} is called {calls} times in a forward pass"
    for earlier, later in pairwise(units):
        if not trace.follows(later, earlier):
            return f"{later} does not depend on the output of {earlier}"
    return ""


def _finest_units(trace: _ForwardTrace, units: list[str]) -> list[str]:
    """Return the units, each stage (a unit that is only a chain of layers of one type) replaced by its layers."""
    found = []
    for unit in units:
        lists = [inner for inner in _lists_of(trace.modules[unit], unit) if inner and _of_one_type(trace, inner)]
        runs = _runs(trace, lists)
        inner = runs[0] if len(runs) == 1 else []
        most = inner and trace.count_weights(inner) * 2 >= trace.count_weights([unit])
        found += inner if most and not trace.has_residual(unit, inner[-1]) else [unit]
    return found


def _steps(trace: _ForwardTrace, outer: str, head: tuple[str, ...]) -> list[str]:
    """Return the submodules with weights that `outer` runs one after the other, each taken apart where it can be.

    Empty unless there are two. A normalisation stands for itself and the layer before it, which belongs to it.
    """
    children = [f"{outer}.{name}" if outer else name for name, _ in trace.modules[outer].named_children()]
    weighted = [name for name in children if trace.calls.get(name) and trace.holds_weights_beside(name, head)]
    if any(name not in trace.outputs_at for name in weighted):
        return []
    units = sorted(weighted, key=lambda name: trace.inputs_at[name][0])
    if len(units) < 2 or _chain_problem(trace, units):
        return _steps(trace, units[0], head) if len(units) == 1 else []
    found = []
    for unit, after in zip(units, [*units[1:], ""], strict=True):
        inner = _steps(trace, unit, head)
        if inner and not trace.has_residual(unit, inner[-1]):
            found += inner
        elif not after or not isinstance(trace.modules[after], _NORMS):
            found.append(unit)
    return found if len(found) > 1 else []


def _of_one_type(trace: _ForwardTrace, units: list[str]) -> bool:
    return len({type(trace.modules[unit]) for unit in units}) == 1


def _heaviest(trace: _ForwardTrace, runs: list[list[str]], candidates: list[list[str]]) -> tuple[str, ...]:
    """Return the chain with the most weights. Raises NoBlocks if there is none, or the others together have as many."""
    if not runs:
        problems = dict.fromkeys(_chain_problem(trace, units) for units in candidates)
        raise NoBlocks("; ".join(problems) or "it holds no list of layers, and its modules are no chain")
    weights = [trace.count_weights(run) for run in runs]
    heaviest = runs[weights.index(max(weights))]
    if max(weights) * 2 <= sum(weights):
        raise NoBlocks(f"{' and '.join(run[0] for run in runs)} begin chains that do not feed each other")
    if len(heaviest) < 2:
        raise NoBlocks(f"{heaviest[0]} is its only layer")
    return tuple(heaviest)


def _walk(starts: Iterable[Node], seen: set[Node] | None = None, stop: Iterable[Node] = ()) -> Iterator[Node]:
    """Yield `starts` and every node that they depend on, except those in `seen` and those before `stop`."""
    seen = set() if seen is None else seen
    seen.update(stop)
    left = [node for node in starts if node not in seen]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            yield node
            left.extend(below for below, _ in node.next_functions if below is not None and below not in seen)


def _nodes(tree: Any) -> list[Node]:
    """Return the graph's nodes of all tensors in a tree of containers."""
    found = []
    for tensor in _tensors(tree):
        if tensor.requires_grad and tensor.grad_fn is None:
            tensor = tensor.view_as(tensor)  # a parameter itself: the view's graph leads to it
        if tensor.grad_fn is not None:
            found.append(tensor.grad_fn)
    return found


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in a tree of mappings, lists, tuples and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from (tensor for value in tree.values() for tensor in _tensors(value))
    elif isinstance(tree, list | tuple):
        yield from (tensor for value in tree for tensor in _tensors(value))
    elif isinstance(tree, SimpleNamespace) or is_dataclass(tree):
        yield from _tensors(vars(tree))


def _run(model: nn.Module, base: nn.Module, begin: Callable[[], None]) -> Any:
    """Return the model's output for the first dummy input that it takes, or the base's if the model takes none.

    `begin` is called before each attempt.
    """
    problem = "its configuration gives no dummy input"
    for module in (model, base):
        for inputs in dummy_inputs(module, base):
            begin()
            try:
                return module(**inputs)
            except Exception as error:  # whatever a model of an unknown family raises is the reason
                problem = (
                    f"it did not run on a dummy input: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                )
    raise NoBlocks(problem)


@contextmanager
def _state_preserved(model: nn.Module) -> Iterator[None]:
    """Set eval mode, and `requires_grad` for every weight; restore both at the end."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    try:
        for parameter in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
