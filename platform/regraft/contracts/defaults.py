"""Defaults of training: the values of `auto`, which a method states for the rows at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the defaults may depend on besides the method and its fields."""

    rows: int
    """Training rows."""
    batch_size: int
    """Rows per step."""
    tokens: bool
    """Whether a row is a sequence of tokens, as texts are and pictures are not."""

    def epochs(self, steps: int, least: int, most: int) -> int:
        """Return the epochs that take about `steps` steps, from `least` to `most`."""
        per_epoch = max(1, math.ceil(self.rows / self.batch_size))
        return max(least, min(most, math.ceil(steps / per_epoch)))


@dataclass(frozen=True, slots=True)
class TrainingDefaults:
    """Values for the training keys that are `auto`. Without arguments they are those of 0.1.0."""

    lr: float = 3e-4
    head_factor: float = 1.0
    epochs: int = 3
    warmup: float = 0.1
