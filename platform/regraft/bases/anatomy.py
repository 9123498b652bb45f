"""Where a task model's parts are: the stem, the ordered blocks, and the head that the base does not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from regraft.contracts import Anatomy


@dataclass(frozen=True, slots=True)
class Rule:
    """How one family names its parts, relative to the bare base; `*` stands for every child in forward order.

    `stem` names modules before the blocks and whatever the blocks share; those a configuration leaves out are passed
    over. `blocks` are spellings of the same chain in different versions of transformers; the first that exists counts.
    """

    stem: tuple[str, ...]
    blocks: tuple[str, ...]


RULES: dict[str, Rule] = {
    "bert": Rule(("embeddings",), ("encoder.layer.*",)),
    "mobilenet_v1": Rule(("conv_stem",), ("layer.*",)),
    "mobilenet_v2": Rule(("conv_stem",), ("layer.*",)),
    "resnet": Rule(("embedder",), ("encoder.stages.*.layers.*",)),
    "vit": Rule(("embeddings",), ("layers.*", "encoder.layer.*")),
    "yolos": Rule(("embeddings", "encoder.interpolation"), ("encoder.layer.*",)),
}
"""One line a family, by the configuration's model_type: the next family is one more line."""


def dissect(model: nn.Module) -> Anatomy:
    """The anatomy of a transformers model, of a bare base, or of any model that holds a base.

    A model that holds a base says where by `base_model_prefix`. Without a rule for the family, `blocks` is empty and
    `reason` says why; prefix and head are known all the same.
    """
    prefix = _prefix(model)
    base = model.get_submodule(prefix)
    head = tuple(_beside(model, prefix))
    family = str(getattr(getattr(base, "config", None), "model_type", None) or type(base).__name__)
    rule = RULES.get(family)
    if rule is None:
        known = ", ".join(sorted(RULES))
        return Anatomy(prefix, (), (), head, f"the blocks of {family!r} are not known; they are of {known}")
    blocks = next((found for pattern in rule.blocks if (found := list(_expand(base, pattern)))), [])
    if not blocks:
        looked = " or ".join(rule.blocks)
        return Anatomy(prefix, (), (), head, f"this {family!r} has no {looked}")
    stem = [name for pattern in rule.stem for name in _expand(base, pattern)]
    return Anatomy(prefix, tuple(_join(prefix, n) for n in stem), tuple(_join(prefix, n) for n in blocks), head)


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
    at, here = "", model
    for step in filter(None, prefix.split(".")):
        for name, _ in here.named_parameters(recurse=False):
            yield _join(at, name)
        for name, child in here.named_children():
            if name != step and next(child.parameters(), None) is not None:
                yield _join(at, name)
        at, here = _join(at, step), here.get_submodule(step)


def _expand(module: nn.Module, pattern: str) -> Iterator[str]:
    """The names below `module` that a pattern means, in forward order; none where it does not fit."""
    step, _, rest = pattern.partition(".")
    children = dict(module.named_children())
    for name in children if step == "*" else ([step] if step in children else []):
        if rest:
            yield from (_join(name, below) for below in _expand(children[name], rest))
        else:
            yield name
