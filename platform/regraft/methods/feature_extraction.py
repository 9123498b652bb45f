"""Feature extraction: the base is a fixed function, and only the task's head is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import nn

from regraft.contracts import Anatomy, Method, Serving, TrainingDefaults, TrainingFacts, under
from regraft.errors import Unsupported


class FeatureExtraction(Method):
    """Everything but the task's head is frozen (linear probing)."""

    synonyms: ClassVar[frozenset[str]] = frozenset({"linear-probe", "linear-probing", "head-only", "frozen"})
    serves: ClassVar[Serving] = "head"
    by_depth: ClassVar[bool] = True
    automatic: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return a large rate and many epochs: a head alone starts from nothing, and its steps cost little."""
        return TrainingDefaults(lr=1e-2, epochs=facts.epochs(400, least=5, most=50))

    def frozen_blocks(self, blocks: int) -> int | None:
        """Return the number of all blocks; None where it is not known."""
        return blocks or None

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return the number of all blocks."""
        return len(anatomy.blocks)

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the largest modules that hold weights and no part of the head.

        Raises Unsupported where the model has no head.
        """
        if not anatomy.head:
            raise Unsupported(
                f"it trains only what a task adds to a base, and there is nothing new in this {type(model).__name__}: "
                "all of it is the base's; write lora, freeze or full",
                where="method",
            )
        return tuple(_outside(model, anatomy.head))


def _outside(module: nn.Module, head: tuple[str, ...], at: str = "") -> Iterator[str]:
    """Yield the names of the largest modules and parameters below `module` that are not part of the head."""
    for name, _ in module.named_parameters(prefix=at, recurse=False):
        if not under(name, head):
            yield name
    for child, inner in module.named_children():
        name = f"{at}.{child}" if at else child
        if under(name, head):
            continue
        if any(under(entry, (name,)) for entry in head):
            yield from _outside(inner, head, name)
        elif next(inner.parameters(), None) is not None or next(inner.buffers(), None) is not None:
            yield name
