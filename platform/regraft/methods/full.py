"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from typing import ClassVar

from regraft.contracts import Method


class Full(Method):
    """Full fine-tuning: every weight of the base is trained, and its running statistics are updated."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"finetune", "fine-tune", "finetuning", "fine-tuning", "full-finetuning", "full-fine-tuning"}
    )
    by_depth: ClassVar[bool] = True
    moves_all: ClassVar[bool] = True

    def frozen_blocks(self, blocks: int) -> int | None:
        """Return 0."""
        return 0
