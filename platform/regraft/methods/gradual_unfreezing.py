"""Gradual unfreezing: the head is trained first, and blocks join from the last one on."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from regraft.contracts import Anatomy, Phase, TrainingDefaults, TrainingFacts
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.methods.freeze import Depth, Freeze


class GradualUnfreezing(Freeze):
    """Gradual unfreezing of ULMFiT (Howard and Ruder, 2018): a phase for the head, then blocks join, the last first.

    In the last phase all that `depth` does not freeze moves. Each phase has a new optimizer and a warm-up; with
    `by: epoch` its own course of the learning rate too, with `by: plateau` one that ends with the run.
    `training.early_stopping` counts in the last phase alone. ULMFiT's rates are `training.layer_decay: 0.38`.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"ulmfit", "gradual-unfreeze", "progressive-unfreezing"})
    by_depth: ClassVar[bool] = False

    depth: Depth = Field(0, examples=[0, "50%"])
    """Blocks that stay frozen in all phases, counted from the input, as in `freeze`."""
    by: Literal["epoch", "plateau"] = "epoch"
    """What ends a phase: a number of epochs, or evaluations that are no better than the best one."""
    epochs: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Epochs of each phase but the last, by epoch; auto is 1, or a third of a run that is shorter than three."""
    patience: int = Field(1, ge=1)
    """Evaluations without improvement that end a phase, by plateau."""
    blocks: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Blocks that join at once; those that are left when time is over join together. auto has all join in equal
    numbers: over the whole run by epoch, in three parts by plateau."""

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return the values of `full`."""
        rate = 1e-4 if facts.tokens else 3e-4
        return TrainingDefaults(lr=rate, head_factor=10.0, epochs=facts.epochs(200, least=3, most=20))

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return the written depth in blocks; 0 also on a base without blocks."""
        return super().depth_of(anatomy) if self.depth else 0

    def phases(self, steps: int, per_epoch: int, anatomy: Anatomy) -> tuple[Phase, ...]:
        """Return a phase for the head, where there is one, and one for each number of moving blocks."""
        blocks = len(anatomy.blocks)
        total = blocks - self.depth_of(anatomy)
        length = self._length(steps, per_epoch)
        joins = max(1, steps // length - 1) if self.by == "epoch" else 3
        each = math.ceil(max(1, total) / joins) if self.blocks == "auto" else self.blocks
        moving = range(0 if anatomy.head else each, max(1, total), each)
        if self.by == "plateau":
            first = [Phase(moves=_last_blocks(n, blocks), end=steps, patience=self.patience) for n in moving]
        else:
            ends = range(length, steps, length)
            first = [
                Phase(moves=_last_blocks(n, blocks), end=end) for n, end in zip(moving, ends[:joins], strict=False)
            ]
        return (*first, Phase(moves=self, end=steps))

    def _length(self, steps: int, per_epoch: int) -> int:
        """Return the steps of a phase by epoch."""
        if self.epochs == "auto":
            return per_epoch if steps >= 3 * per_epoch else max(1, steps // 3)
        return max(1, round(self.epochs * per_epoch))


def _last_blocks(count: int, blocks: int) -> Freeze | FeatureExtraction:
    """Return the method that moves the head and so many of the last blocks."""
    return Freeze(depth=blocks - count) if count else FeatureExtraction()
