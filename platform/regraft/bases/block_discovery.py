"""The blocks of a family that has no rule: found in the module tree, and believed only after a forward pass.

A list of like modules may run side by side (a decoder's projections of each stage), in another order, or one module
many times. So every call of a candidate is recorded on a made-up input, and the graph of gradients is walked back from
what each entered with: it must lead through the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from regraft.bases.dummy_inputs import made_up_inputs
from regraft.contracts import Anatomy, under

Node = Any
"""A node of autograd's graph."""


class NoChain(Exception):
    """Why no chain of blocks was found."""


def find_chain(model: nn.Module, prefix: str) -> Anatomy:
    """Stem, blocks and what belongs to each, of the base at `prefix`, from one forward pass; NoChain says why not.

    The stem is what the first block's output depends on besides that block, `beside` what each later block's output
    depends on besides all before it, and `idle` what no output depends on. Costs one pass over a few tokens or a small
    image; the model's modes, weights and statistics stay as they are.
    """
    candidates = [units for units in _lists(model.get_submodule(prefix), prefix) if units]
    if not candidates:
        raise NoChain("it holds no list of layers")
    with _as_it_was(model):
        trace = _Trace(model, prefix)
        runs = _runs(trace, candidates)
        blocks = _longest(trace, runs, candidates)
        stem, *beside = trace.owners(blocks)
        idle = trace.unread(blocks)
        stem = (*stem, *trace.dropouts(blocks[0], stem))
    return Anatomy(prefix, stem, blocks, (), "", ((), *beside) if any(beside) else (), idle)


class _Trace:
    """What a forward pass did: who was called when, from what, to what; graph nodes stand for the tensors."""

    def __init__(self, model: nn.Module, prefix: str) -> None:
        self.modules = dict(model.named_modules())
        self.prefix = prefix
        self.names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
        self.calls: dict[str, int] = {}
        self.entered: dict[str, tuple[int, list[Node]]] = {}
        self.left: dict[str, tuple[int, list[Node]]] = {}
        self._clock = 0
        hooks = []
        for name, module in self.modules.items():
            hooks.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(self._leaving(name)))
        try:
            self.outputs = _nodes(_run(model, self.modules[prefix]))
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._clock += 1
            self.calls[name] = self.calls.get(name, 0) + 1
            self.entered[name] = self._clock, _nodes((args, kwargs))

        return hook

    def _leaving(self, name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._clock += 1
            self.left[name] = self._clock, _nodes(output)

        return hook

    def follows(self, later: str, earlier: str) -> bool:
        """Whether `later` was entered after `earlier` was left, with something that depends on its weights."""
        if self.entered[later][0] < self.left[earlier][0]:
            return False
        weights = set(self.modules[earlier].parameters())
        return any(getattr(node, "variable", None) in weights for node in _walk(self.entered[later][1]))

    def bypassed(self, whole: str, last: str) -> bool:
        """Whether what enters `whole` reaches its output around its inner module `last` (a residual connection)."""
        entrance = {id(node) for node in self.entered[whole][1]}
        return any(id(node) in entrance for node in _walk(self.left[whole][1], stop=self.left[last][1]))

    def owners(self, blocks: tuple[str, ...]) -> list[tuple[str, ...]]:
        """For each block, the largest modules that its output is the first to depend on, itself left out."""
        seen: set[Node] = set()
        found = []
        for block in blocks:
            reached = {self.names.get(getattr(node, "variable", None), "") for node in _walk(self.left[block][1], seen)}
            found.append(self._largest({name for name in reached if name and not under(name, blocks)}))
        return found

    def unread(self, blocks: tuple[str, ...]) -> tuple[str, ...]:
        """What of the base no output depends on: modules beside the blocks, and whole blocks (BEiT's last ones, where a
        segmenter reads earlier ones). A part of a block is spared: an expert that this input did not choose."""
        reached = {self.names.get(getattr(node, "variable", None)) for node in _walk(self.outputs)}
        inside = {name for name in self.names.values() if not self.prefix or under(name, (self.prefix,))}
        used = [block for block in blocks if any(under(str(name), (block,)) for name in reached)]
        return self._largest({name for name in inside - reached if not under(name, used)})

    def dropouts(self, first: str, stem: tuple[str, ...]) -> Iterator[str]:
        """Dropout that stands alone before the first block: the trunk must not draw it."""
        for name, module in self.modules.items():
            alone = isinstance(module, _DropoutNd) and self.calls.get(name) == 1 and not under(name, stem)
            if alone and self.entered[name][0] < self.entered[first][0]:
                yield name

    def weigh(self, names: Iterable[str]) -> int:
        """Numbers of weights."""
        return sum(parameter.numel() for name in names for parameter in self.modules[name].parameters())

    def _largest(self, names: set[str]) -> tuple[str, ...]:
        """The fewest modules and parameters of the base that hold exactly these parameters."""
        return tuple(_cover(self.modules[self.prefix], self.prefix, names, set(self.names.values())))


def _cover(module: nn.Module, at: str, names: set[str], known: set[str]) -> Iterator[str]:
    own = {f"{at}.{name}" if at else name for name, _ in module.named_parameters()} & known
    if at and own and own <= names:
        yield at
    elif own & names:
        yield from (name for name, _ in module.named_parameters(at, recurse=False) if name in names)
        for name, child in module.named_children():
            yield from _cover(child, f"{at}.{name}" if at else name, names, known)


def _lists(module: nn.Module, at: str) -> Iterator[list[str]]:
    """The outermost lists of layers, each of which holds layers itself."""
    for name, child in module.named_children():
        inner = f"{at}.{name}" if at else name
        layers = {f"{inner}.{key}": layer for key, layer in child.named_children()}
        if isinstance(child, nn.ModuleList | nn.Sequential) and all(map(_is_layer, layers.values())):
            yield list(layers)
        else:
            yield from _lists(child, inner)


def _is_layer(module: nn.Module) -> bool:
    bare = isinstance(module, nn.ModuleList | nn.ModuleDict)
    return not bare and any(True for _ in module.children()) and any(True for _ in module.parameters())


def _runs(trace: _Trace, candidates: list[list[str]]) -> list[list[str]]:
    """Lists that are chains, down to their finest units and joined where one leads into the next."""
    chains = [_finest(trace, units) for units in candidates if not _broken(trace, units)]
    runs: list[list[str]] = []
    for units in sorted(chains, key=lambda units: trace.entered[units[0]][0]):
        if runs and trace.follows(units[0], runs[-1][-1]):
            runs[-1].extend(units)
        else:
            runs.append(units)
    return runs


def _broken(trace: _Trace, units: list[str]) -> str:
    """Why a list is no chain; empty when it is one."""
    for unit in units:
        if (calls := trace.calls.get(unit, 0)) != 1 or unit not in trace.left:
            return f"{unit} is called {calls} times in a forward pass"
    for earlier, later in pairwise(units):
        if not trace.follows(later, earlier):
            return f"{later} does not read what {earlier} computes"
    return ""


def _finest(trace: _Trace, units: list[str]) -> list[str]:
    """The units, with each that is itself only a chain of like layers (a stage) replaced by its layers."""
    found = []
    for unit in units:
        lists = [inner for inner in _lists(trace.modules[unit], unit) if inner and _like(trace, inner)]
        runs = _runs(trace, lists)
        inner = runs[0] if len(runs) == 1 else []
        most = inner and trace.weigh(inner) * 2 >= trace.weigh([unit])
        found += inner if most and not trace.bypassed(unit, inner[-1]) else [unit]
    return found


def _like(trace: _Trace, units: list[str]) -> bool:
    return len({type(trace.modules[unit]) for unit in units}) == 1


def _longest(trace: _Trace, runs: list[list[str]], candidates: list[list[str]]) -> tuple[str, ...]:
    """The run with the most weights; NoChain when there is none, or when it stands beside others as heavy."""
    if not runs:
        raise NoChain("; ".join(dict.fromkeys(_broken(trace, units) for units in candidates)))
    weights = [trace.weigh(run) for run in runs]
    longest = runs[weights.index(max(weights))]
    if max(weights) * 2 <= sum(weights):
        raise NoChain(f"{' and '.join(run[0] for run in runs)} begin chains that do not lead into one another")
    if len(longest) < 2:
        raise NoChain(f"{longest[0]} is its only layer")
    return tuple(longest)


def _walk(starts: Iterable[Node], seen: set[Node] | None = None, stop: Iterable[Node] = ()) -> Iterator[Node]:
    """Every node that `starts` depend on and `seen` lacks, themselves included, not going on at `stop`."""
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
    """The graph's nodes of all tensors in a tree of containers."""
    found = []
    for tensor in _tensors(tree):
        if tensor.requires_grad and tensor.grad_fn is None:
            tensor = tensor.view_as(tensor)  # a parameter itself: the view's graph leads to it
        if tensor.grad_fn is not None:
            found.append(tensor.grad_fn)
    return found


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from (tensor for value in tree.values() for tensor in _tensors(value))
    elif isinstance(tree, list | tuple):
        yield from (tensor for value in tree for tensor in _tensors(value))
    elif isinstance(tree, SimpleNamespace) or is_dataclass(tree):
        yield from _tensors(vars(tree))


def _run(model: nn.Module, base: nn.Module) -> Any:
    """The model's output for the first made-up input that it takes, or the base's where the model takes none."""
    problem = "no input for it could be made up from its configuration"
    for module in (model, base):
        for inputs in made_up_inputs(module, base):
            try:
                return module(**inputs)
            except Exception as error:  # whatever a model of an unknown family raises is the reason
                problem = (
                    f"it did not run on a made-up input: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                )
    raise NoChain(problem)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Eval mode and gradients for every weight, then each module's mode and each weight's flag as before."""
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
