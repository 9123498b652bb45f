"""Anatomy: the parts of a task model, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regraft.errors import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where the parts of a task model are; every entry is a name in the model's own module or parameter tree."""

    prefix: str
    """Where the base stands inside the task model (`bert`); empty when the model is the base itself."""
    stem: tuple[str, ...]
    """What comes before the blocks, and whatever the blocks share: frozen from depth 1 on."""
    blocks: tuple[str, ...]
    """The finest sequential units in forward order."""
    head: tuple[str, ...]
    """The task's own layers, which the base does not have."""
    reason: str = ""
    """Why no blocks were found; empty when they were."""
    beside: tuple[tuple[str, ...], ...] = ()
    """For each block, what belongs to it and stands outside it (the downsampling before it); or nothing."""
    idle: tuple[str, ...] = ()
    """What no method trains: constants kept as parameters, and layers of the base whose output nothing reads."""

    def depth(self, written: int | str) -> int:
        """Frozen blocks for an integer, a percentage (`50%`) or `all`; Unsupported says what is allowed."""
        total = len(self.blocks)
        if not total:
            raise Unsupported(f"this base cannot be frozen at a depth: {self.reason}", where="method.depth")
        if written == "all":
            return total
        if isinstance(written, str):
            return round(float(written.removesuffix("%")) / 100 * total)
        if not 0 <= written <= total:
            raise Unsupported(f"{written} is written; this base has {total} blocks: 0 to {total}", where="method.depth")
        return written

    def trunk(self, depth: int) -> tuple[str, ...]:
        """The names that are frozen at that depth: the stem and the first `depth` blocks."""
        return (*self.stem, *(name for block in range(depth) for name in self.members(block))) if depth else ()

    def members(self, block: int) -> tuple[str, ...]:
        """All names of one block; a stem entry inside of it still belongs to the stem."""
        return (self.blocks[block], *(self.beside[block] if self.beside else ()))


def under(name: str, roots: Iterable[str]) -> bool:
    """Whether a parameter or module name is one of the roots or lies below one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter is."""
    return next(model.parameters()).device
