"""Loss: an extra term, added to the task's own loss."""

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
    """One micro-batch as a loss term sees it."""

    batch: Batch
    """The collated rows, `labels` included."""
    output: Any
    """The model's output on them."""
    features: Tensor | None
    """The head's input, (rows, width), where the head is one linear layer; else None."""
    progress: float
    """Share of the run's steps that are done: 0 at the first, 1 at the last."""


class Loss(Plugin, ABC):
    """An extra loss term; a run has zero or more, each with its weight."""

    family: ClassVar[str] = "losses"
    weight: float = Field(1.0, ge=0)
    """Factor of this term in the sum with the task's own loss."""

    @abstractmethod
    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term: a module whose `forward(step: Step)` returns a scalar on the scale of a mean over rows.

        Called once on the freshly adapted model, before a checkpoint is loaded into it: values that the term copies
        from the model are then the base's. The module's parameters are optimised and checkpointed with the run.
        Raises Unsupported where the term has no meaning for this model and method.
        """
