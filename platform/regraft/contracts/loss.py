"""Loss: an extra term, added to the task's own loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from regraft.contracts.anatomy import Anatomy
from regraft.contracts.rows import Batch
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

Need = Literal["target", "features", "classes", "one-label"]
"""What a loss term cannot do without. `target`: rows of `data.target`. `features`: one vector for each row, which
the head's last layer reads and training moves. `classes`: logits of classes, (rows, classes). `one-label`: one
class a row."""


@dataclass(frozen=True, slots=True)
class Episode:
    """How the rows of a step are drawn by class: `way` classes, with `shot` + `query` rows of each."""

    way: int
    shot: int
    query: int

    @property
    def rows_each(self) -> int:
        """Rows of each class."""
        return self.shot + self.query

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.way * self.rows_each


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """A batch and what the model made of it."""

    batch: Batch
    """The collated rows, `labels` included where they have any."""
    output: Any
    """The model's output on them."""
    features: Tensor | None
    """The input of the head's last linear layer, (rows, width); None where the head has none."""


@dataclass(frozen=True, slots=True)
class Step(ForwardPass):
    """One micro-batch as a loss term sees it, or one step for a term that reads whole steps."""

    progress: float
    """Share of the run's steps that are done: 0 at the first, 1 at the last."""
    target: ForwardPass | None = None
    """The rows of `data.target` beside them, passed through the model separately, and without labels."""


class Loss(Plugin, ABC):
    """An extra loss term; a run has zero or more, each with its weight."""

    family: ClassVar[str] = "losses"
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What the term cannot do without; a spec that lacks it is refused."""
    whole_step: ClassVar[bool] = False
    """Whether the term is no sum over rows, so that it reads the rows of all workers at once: outputs have
    `logits` alone then, and batches `labels`. Such a term is refused with `training.accumulation` above 1."""
    weight: float = Field(1.0, ge=0)
    """Factor of this term in the sum with the task's own loss."""

    @property
    def episode(self) -> Episode | None:
        """How the rows of every step are drawn; None where each row comes once an epoch, as in other runs."""
        return None

    @abstractmethod
    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term: a module whose `forward(step: Step)` returns a scalar on the scale of a mean over rows.

        Called once on the freshly adapted model, before a checkpoint is loaded into it: values that the term copies
        from the model are then the base's. The module's parameters are optimised and checkpointed with the run.
        Raises Unsupported where the term has no meaning for this model and method.
        """


class TeacherLoss(Loss, ABC):
    """A loss term that reads what a registered model answers to the training rows.

    Its term finds the logits, (rows, classes), in `step.batch["teachers"]`, by the value of `teacher`. They are
    computed once a row, before the first step, and kept in the store. Rows are read without augmentation.
    """

    teacher: str = Field(examples=["model:NAME@v1"])
    """A registered model of the store with the same task and classes: model:NAME[@version|@alias]."""
