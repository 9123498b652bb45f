"""Anatomy: the names of a task model's stem, blocks and head."""

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
    """Stem, blocks and head of a task model; every entry is a name in its module or parameter tree."""

    prefix: str
    """Name of the base inside the task model (`bert`); empty where the model is the base itself."""
    stem: tuple[str, ...]
    """Modules before the blocks, and modules that the blocks share: frozen from depth 1 on."""
    blocks: tuple[str, ...]
    """The finest sequential units in forward order."""
    head: tuple[str, ...]
    """The task's own layers, which the base does not have."""
    reason: str = ""
    """Why no blocks were found; empty where they were."""
    beside: tuple[tuple[str, ...], ...] = ()
    """For each block, the modules outside of it that belong to it (a downsampling before it); empty if none has."""
    idle: tuple[str, ...] = ()
    """Parameters that no method trains: constants, and layers of the base whose output is not used."""

    def depth(self, written: int | str) -> int:
        """Return the number of frozen blocks that an integer, a percentage (`50%`) or `all` means.

        Raises Unsupported where the base has no blocks, or fewer than that.
        """
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
        """Return the names that are frozen at that depth: the stem and the first `depth` blocks; none at depth 0."""
        return (*self.stem, *(name for block in range(depth) for name in self.members(block))) if depth else ()

    def members(self, block: int) -> tuple[str, ...]:
        """Return all names of one block; a stem entry inside of it still belongs to the stem."""
        return (self.blocks[block], *(self.beside[block] if self.beside else ()))


def under(name: str, roots: Iterable[str]) -> bool:
    """Return whether a parameter or module name is one of the roots or lies below one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device
