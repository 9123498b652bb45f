"""Freezing at a depth: the first blocks are frozen, the rest of the model is fine-tuned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from regraft.contracts import Anatomy, Method, TrainingDefaults, TrainingFacts


def _depth(written: object) -> object:
    whole = isinstance(written, int) and not isinstance(written, bool) and written >= 0
    share = re.fullmatch(r"\d+(\.\d+)?%", written) if isinstance(written, str) else None
    if whole or written == "all" or (share and float(share[0][:-1]) <= 100):
        return written
    raise ValueError(f"{written!r} is written; allowed are a number of blocks (0 or more), 0% to 100%, or all")


Depth = Annotated[int | str, BeforeValidator(_depth)]
"""A number of frozen blocks as a spec has it."""


class Freeze(Method):
    """The stem and the first `depth` blocks are frozen; later blocks, pooler and head are fine-tuned."""

    by_depth: ClassVar[bool] = True
    automatic: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"depth": ("50%", "75%", "25%")}

    depth: Depth = Field("50%", examples=[4, "50%", "all"])
    """Frozen blocks, counted from the input: an integer, a share of them (`50%`), or `all`."""

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return a small rate for later blocks, which only adapts, and a larger one for the head, which is new."""
        rate = 1e-4 if facts.tokens else 3e-4
        return TrainingDefaults(lr=rate, head_factor=10.0, epochs=facts.epochs(200, least=3, most=20))

    def frozen_blocks(self, blocks: int) -> int | None:
        """Return the written depth in blocks; None where it is a share of blocks that are not known."""
        if self.depth == "all":
            return blocks or None
        if isinstance(self.depth, int):
            return self.depth
        return round(float(self.depth.removesuffix("%")) / 100 * blocks) if blocks else None

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return the written depth in blocks. Raises Unsupported where the base has fewer."""
        return anatomy.depth(self.depth)
