"""Loss: an extra loss term beside the task loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from regraft.contracts.anatomy import Anatomy
from regraft.contracts.rows import Batch
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Step:
    """What a loss term sees of one micro-batch."""

    batch: Batch
    output: Any
    features: Tensor | None
    """What the head saw, (rows, width), where the head is one linear layer; else None."""
    progress: float
    """0 at the run's first step, 1 at its last."""


class Loss(Plugin, ABC):
    """What else pulls on the weights; zero or more a run, each with its weight."""

    family: ClassVar[str] = "losses"
    weight: float = Field(1.0, ge=0)
    """Factor of this term beside the task's own loss."""

    @abstractmethod
    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """The term: a module whose `forward(step: Step)` is a scalar on the scale of a mean over rows.

        Called once on the freshly adapted model, before any checkpoint is read into it, so that what the term keeps of
        the model are the base's values. The module's parameters are optimised and checkpointed with the run.
        """
