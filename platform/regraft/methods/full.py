"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from regraft.contracts import Method, TrainingDefaults, TrainingFacts


class Full(Method):
    """Full fine-tuning: every weight of the base is trained, and its running statistics are updated."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"finetune", "fine-tune", "finetuning", "fine-tuning", "full-finetuning", "full-fine-tuning"}
    )
    by_depth: ClassVar[bool] = True
    moves_all: ClassVar[bool] = True
    usual: ClassVar[bool] = True
    automatic: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {}

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return a small rate for every block, which only adapts, and a larger one for the head, which is new."""
        rate = 1e-4 if facts.tokens else 3e-4
        return TrainingDefaults(lr=rate, head_factor=10.0, epochs=facts.epochs(200, least=3, most=20))

    def frozen_blocks(self, blocks: int) -> int | None:
        """Return 0."""
        return 0
