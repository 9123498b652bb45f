"""Where a task model's parts are: the stem, the ordered blocks, and the head that the base does not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from regraft.bases.block_discovery import NoChain, find_chain
from regraft.bases.families import RULES, UNREAD, Rule
from regraft.contracts import Anatomy, under


def dissect(model: nn.Module) -> Anatomy:
    """The anatomy of a transformers model, of a bare base, or of any model that holds a base.

    A model that holds a base says where by `base_model_prefix`. A family without a rule is run once on a made-up
    input, from which its blocks are found and checked. Where that fails too, `blocks` is empty and `reason` says why;
    prefix and head are known all the same.
    """
    prefix = _prefix(model)
    base = model.get_submodule(prefix)
    rule = RULES.get(_family(base))
    head = tuple(_beside(model, prefix) if prefix else _output_layer(model))
    if prefix and rule and rule.head:
        head = tuple(_own_first(model, (*head, *(_join(prefix, name) for name in rule.head))))
    idle = tuple(_unmoving(model, prefix))
    found = _by_rule(model, prefix, rule) if rule else None
    if found is None:
        try:
            found = find_chain(model, prefix)
        except NoChain as reason:
            return Anatomy(prefix, (), (), head, f"the blocks of {_family(base)!r} are not known: {reason}", (), idle)
    return Anatomy(prefix, found.stem, found.blocks, head, "", found.beside, _once((*idle, *found.idle)))


def _by_rule(model: nn.Module, prefix: str, rule: Rule) -> Anatomy | None:
    """The base's parts by its family's rule, None where this base is not built as the rule says."""
    base = model.get_submodule(prefix)
    held = {name for name, _ in model.named_parameters()}
    blocks = next(filter(None, (_chain(base, words) for words in rule.blocks)), None)
    if blocks is None:
        return None
    named = {pattern: [_join(prefix, name) for name in _expand(base, pattern)] for pattern in rule.stem + rule.between}
    order = {name: number for number, (name, _) in enumerate(model.named_modules())}
    names = tuple(_join(prefix, block) for block in blocks)
    before: dict[str, list[str]] = {name: [] for name in names}
    for name in sorted((name for pattern in rule.between for name in named[pattern]), key=order.__getitem__):
        after = [block for block in names if order[block] > order[name]]
        if after and _holds(held, name):
            before[min(after, key=order.__getitem__)].append(name)
    # Tied tables count under the first of their names: the others would be entries that hold nothing.
    stem = [name for pattern in rule.stem for name in named[pattern] if _holds(held, name) or _bare(model, name)]
    stem += before[names[0]]
    before[names[0]] = []
    beside = tuple(tuple(before[name]) for name in names) if any(before.values()) else ()
    idle = (*rule.idle, *UNREAD.get(type(model).__name__, ()))
    spared = [_join(prefix, name) for pattern in idle for name in _expand(base, pattern)]
    return Anatomy(prefix, tuple(stem), names, (), "", beside, tuple(spared))


def _family(base: nn.Module) -> str:
    return str(getattr(getattr(base, "config", None), "model_type", None) or type(base).__name__)


def _holds(parameters: Iterable[str], name: str) -> bool:
    return any(under(parameter, (name,)) for parameter in parameters)


def _bare(model: nn.Module, name: str) -> bool:
    return next(model.get_submodule(name).parameters(), None) is None


def _own_first(model: nn.Module, names: Iterable[str]) -> Iterator[str]:
    """Those of the names that hold a parameter under the first of its names: tied heads are listed once."""
    held = [name for name, _ in model.named_parameters()]
    yield from (name for name in names if _holds(held, name))


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _prefix(model: nn.Module) -> str:
    """Follow `base_model_prefix` down to the bare base: a wrapper may hold a model that itself holds it."""
    found = ""
    while name := getattr(model, "base_model_prefix", ""):
        inner = getattr(model, name, None)
        if not isinstance(inner, nn.Module):
            break
        found, model = _join(found, name), inner
    return found


def _beside(model: nn.Module, prefix: str) -> Iterator[str]:
    """What holds parameters on the way down to the base, but is not the base."""
    for at, here, step in _way_down(model, prefix):
        for name, _ in here.named_parameters(recurse=False):
            yield _join(at, name)
        for name, child in here.named_children():
            if name != step and next(child.parameters(), None) is not None:
                yield _join(at, name)


def _way_down(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str]]:
    """Each module above the base, with its name and the step that leads on from it."""
    at, here = "", model
    for step in filter(None, prefix.split(".")):
        yield at, here, step
        at, here = _join(at, step), here.get_submodule(step)


def _output_layer(model: nn.Module) -> Iterator[str]:
    """The language-model head of a model that holds no base but is one with a layer more (T5)."""
    asked: Any = getattr(model, "get_output_embeddings", None)
    layer = asked() if asked else None
    if isinstance(layer, nn.Module):
        yield from (name for name, module in model.named_modules() if module is layer)


def _unmoving(model: nn.Module, prefix: str) -> Iterator[str]:
    """Buffers that no forward pass writes: frozen batch norm's, and constants of the task's class (BART's bias)."""
    for at, here, _ in _way_down(model, prefix):
        yield from (_join(at, name) for name, _ in here.named_buffers(recurse=False))
    yield from (name for name, module in model.named_modules() if "FrozenBatchNorm" in type(module).__name__)


def _chain(base: nn.Module, words: str) -> list[str]:
    """The blocks that a spelling names, none where one of its words names nothing."""
    found = [list(_expand(base, pattern)) for pattern in words.split()]
    return [name for names in found for name in names] if all(found) else []


def _expand(module: nn.Module, pattern: str) -> Iterator[str]:
    """The names below `module` that a pattern means, in forward order; none where it does not fit."""
    step, _, rest = pattern.partition(".")
    children = dict(module.named_children())
    for name in children if step == "*" else ([step] if step in children else []):
        if rest:
            yield from (_join(name, below) for below in _expand(children[name], rest))
        else:
            yield name
