"""The parts of a task model: the stem, the ordered blocks, and the head that the base does not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from regraft.bases.block_discovery import NoBlocks, discover_blocks
from regraft.bases.families import RULES, UNREAD, FamilyRule
from regraft.bases.timm import classifier_names
from regraft.contracts import Anatomy, under


def dissect(model: nn.Module) -> Anatomy:
    """Return the anatomy of a transformers model, of a bare base, or of any model that contains a base.

    A model that contains a base names the attribute in `base_model_prefix`. A family without a rule is run once on a
    dummy input, from which its blocks are found and checked. If that fails too, `blocks` is empty and `reason` says
    why; prefix and head are still set.
    """
    prefix = _prefix(model)
    base = model.get_submodule(prefix)
    rule = RULES.get(_family(base))
    head = tuple(_beside_path(model, prefix) if prefix else _output_layer(model))
    inside = rule.head if rule else classifier_names(base)
    if inside and (prefix or (rule and rule.whole)):
        head = tuple(_first_names(model, (*head, *(_join(prefix, name) for name in inside))))
    head = tuple(name for entry in head for name in _read(model, entry, UNREAD.get(type(model).__name__, ())))
    idle = tuple(_constant_buffers(model, prefix))
    found = _by_rule(model, prefix, rule) if rule else None
    if found is None:
        try:
            found = discover_blocks(model, prefix, head)
        except NoBlocks as reason:
            return Anatomy(prefix, (), (), head, f"the blocks of {_family(base)!r} are not known: {reason}", (), idle)
    return Anatomy(prefix, found.stem, found.blocks, head, "", found.beside, _unique((*idle, *found.idle)))


def _by_rule(model: nn.Module, prefix: str, rule: FamilyRule) -> Anatomy | None:
    """Return the base's parts by its family's rule, or None if this base is not built as the rule says."""
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
    # Tied tables count under the first of their names: the other entries would hold no parameter.
    stem = [
        name
        for pattern in rule.stem
        for name in named[pattern]
        if _holds(held, name) or _has_no_parameters(model, name)
    ]
    stem += before[names[0]]
    before[names[0]] = []
    beside = tuple(tuple(before[name]) for name in names) if any(before.values()) else ()
    idle_names = [_join(prefix, name) for pattern in rule.idle for name in _expand(base, pattern)]
    idle_names += [name for pattern in UNREAD.get(type(model).__name__, ()) for name in _expand(model, pattern)]
    return Anatomy(prefix, tuple(stem), names, (), "", beside, tuple(idle_names))


def _family(base: nn.Module) -> str:
    return str(getattr(getattr(base, "config", None), "model_type", None) or type(base).__name__)


def _holds(parameters: Iterable[str], name: str) -> bool:
    return any(under(parameter, (name,)) for parameter in parameters)


def _has_no_parameters(model: nn.Module, name: str) -> bool:
    return next(model.get_submodule(name).parameters(), None) is None


def _first_names(model: nn.Module, names: Iterable[str]) -> Iterator[str]:
    """Yield the names that hold a parameter under the first of its names, so that tied heads are listed once."""
    held = [name for name, _ in model.named_parameters()]
    yield from (name for name in names if _holds(held, name))


def _read(model: nn.Module, entry: str, unread: tuple[str, ...]) -> Iterator[str]:
    """Yield a part of the head, or the parts of it without the layers `unread`."""
    if not any(under(name, (entry,)) for name in unread):
        yield entry
    elif entry not in unread:
        for name, child in model.get_submodule(entry).named_children():
            if next(child.parameters(), None) is not None:
                yield from _read(model, f"{entry}.{name}", unread)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _prefix(model: nn.Module) -> str:
    """Return the path to the bare base along `base_model_prefix`: a wrapper may contain a model that contains it."""
    found = ""
    while name := getattr(model, "base_model_prefix", ""):
        inner = getattr(model, name, None)
        if not isinstance(inner, nn.Module):
            break
        found, model = _join(found, name), inner
    return found


def _beside_path(model: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the names of parameters, and of modules with parameters, beside the path down to the base."""
    for at, here, step in _path_to_base(model, prefix):
        for name, _ in here.named_parameters(recurse=False):
            yield _join(at, name)
        for name, child in here.named_children():
            if name != step and next(child.parameters(), None) is not None:
                yield _join(at, name)


def _path_to_base(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield each module above the base: its name, the module, and the name of the child that leads to the base."""
    at, here = "", model
    for step in filter(None, prefix.split(".")):
        yield at, here, step
        at, here = _join(at, step), here.get_submodule(step)


def _output_layer(model: nn.Module) -> Iterator[str]:
    """Yield the language-model head of a model that contains no base but is a base with one more layer (T5)."""
    asked: Any = getattr(model, "get_output_embeddings", None)
    layer = asked() if asked else None
    if isinstance(layer, nn.Module):
        yield from (name for name, module in model.named_modules() if module is layer)


def _constant_buffers(model: nn.Module, prefix: str) -> Iterator[str]:
    """Yield buffers that no forward pass writes: those of frozen batch norm, and constants such as BART's bias."""
    for at, here, _ in _path_to_base(model, prefix):
        yield from (_join(at, name) for name, _ in here.named_buffers(recurse=False))
    yield from (name for name, module in model.named_modules() if "FrozenBatchNorm" in type(module).__name__)


def _chain(base: nn.Module, words: str) -> list[str]:
    """Return the blocks that a list of patterns matches; empty when one of the patterns matches nothing."""
    found = [list(_expand(base, pattern)) for pattern in words.split()]
    return [name for names in found for name in names] if all(found) else []


def _expand(module: nn.Module, pattern: str) -> Iterator[str]:
    """Yield the names below `module` that a pattern matches, in forward order."""
    step, _, rest = pattern.partition(".")
    children = dict(module.named_children())
    for name in children if step == "*" else ([step] if step in children else []):
        if rest:
            yield from (_join(name, below) for below in _expand(children[name], rest))
        else:
            yield name
