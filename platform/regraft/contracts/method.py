"""Method: which weights of a model are trained, and how."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from regraft.contracts.anatomy import Anatomy, under
from regraft.contracts.closed_form import FeatureRows
from regraft.contracts.defaults import TrainingDefaults, TrainingFacts
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

Serving = Literal["head", "low_rank", "whole"]
"""The part that served models of one base share. `head`: its computation up to the head. `low_rank`: its weights, with
low-rank factors for each row of a batch. `whole`: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a run in which the same weights move.

    Each has an optimizer and a course of the learning rate of its own: warm-up, then the schedule until `end`.
    """

    moves: Method
    """Its `frozen` says what stays meanwhile. Later phases move at least as much."""
    end: int
    """The step after which it ends at the latest; the last phase ends with the run."""
    patience: int | None = None
    """Number of evaluations without improvement after which it ends too; None for no such limit."""
    lr: float | None = None
    """Peak learning rate of all that moves, the head included; None for those of the run."""


class Method(Plugin, ABC):
    """A choice of the weights that are trained. Other packages use these attributes and hooks, never a method's name.

    The default `adapt` freezes what `frozen` returns: feature extraction, freezing at a depth and full fine-tuning
    differ in that hook alone. A closed-form method overrides `fit`, or `statistics` and `solve`, instead of taking
    steps.
    """

    family: ClassVar[str] = "methods"
    serves: ClassVar[Serving] = "whole"
    """The part that served models of this method share."""
    by_depth: ClassVar[bool] = False
    """Whether its settings differ only in how many blocks stay frozen, so that reports compare them by depth."""
    closed_form: ClassVar[bool] = False
    """Whether a layer is fitted to the features of all training rows, by `fit`, without steps."""
    fits: ClassVar[str] = "prototypes"
    """What a closed-form method needs of a task: one of `Task.supports`, such as `prototypes` or `patches`."""
    reads_twice: ClassVar[bool] = False
    """Whether a closed-form method passes over the rows twice, so that their features are kept where they fit."""
    learns_more: ClassVar[bool] = False
    """Whether `learn` adapts a fitted layer to a few rows more, without the rows that it was fitted to."""

    trains_features: ClassVar[bool] = False
    """Whether steps train the features that the head reads, by `feature_loss` on balanced batches in place of the
    task's loss, and the head is solved from those of all training rows by `fit_head` before each evaluation."""
    usual: ClassVar[bool] = False
    """Whether this is the method of a stage that names none, where that of its run moves the head alone."""
    moves_all: ClassVar[bool] = False
    """Whether every weight of the base is trained, so that it may begin with random weights."""

    automatic: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    """The fields that `regraft auto` varies, each with its values, the usual one first; None where it does not try the
    method. Members that derive from another do not inherit it."""

    @classmethod
    def varied(cls) -> Mapping[str, tuple[Any, ...]] | None:
        """Return the fields that `regraft auto` varies, as this class itself states them."""
        found: Mapping[str, tuple[Any, ...]] | None = vars(cls).get("automatic")
        return found

    def needs(self) -> frozenset[str]:
        """Return the options of `Task.supports` without which this method has no meaning."""
        return frozenset()

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return the values of the training keys that a spec leaves open."""
        return TrainingDefaults()

    def frozen_blocks(self, blocks: int) -> int | None:
        """Return how many of `blocks` stay frozen, or None if it depends on the base; for methods `by_depth`."""
        return None

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return how many blocks keep the base's function, so that their outputs may be computed once and cached.

        Raises Unsupported where the base has fewer blocks than the method freezes.
        """
        return 0

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the names of modules, parameters and running statistics whose values stay the base's."""
        return anatomy.trunk(self.depth_of(anatomy))

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Prepare the model for training, in place: set `requires_grad`, add layers.

        Called once per model, before the optimizer and any wrapper, in training and serving. Raises Unsupported for a
        model that the method cannot adapt.
        """
        frozen = self.frozen(model, anatomy)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not under(name, frozen))

    @classmethod
    def has_phases(cls) -> bool:
        """Return whether the method may move other weights in one part of a run than in another."""
        return cls.phases is not Method.phases

    def phases(self, steps: int, per_epoch: int, anatomy: Anatomy) -> tuple[Phase, ...]:
        """Return the phases of a run of so many steps, in order; none where the same weights move throughout.

        `adapt` and `frozen` are about all phases together: the delta holds what moves in any of them.
        """
        return ()

    def decays(self, name: str) -> bool:
        """Return whether weight decay may apply to the parameter of that name; vectors never decay."""
        return True

    def merge(self, model: nn.Module) -> None:
        """Turn an adapted model, in place, into one of the base's architecture with the same outputs.

        Called before an export; the default is for methods that add no layers.
        """

    def fit(self, layer: nn.Module, rows: FeatureRows) -> str | None:
        """Fit the layer, in place, to the features of all training rows; return what the user should know, if anything.

        Called once on every worker, which must all end with the same values. The default sums `statistics`, and those
        of `refine` where the method reads twice, over batches and workers, and solves a linear head from them.
        """
        sums = rows.summed(self.statistics(batch.features, batch.targets, rows.classes) for batch in rows)
        if self.reads_twice:
            sums |= rows.summed(self.refine(batch.features, batch.targets, sums) for batch in rows)
        return self.solve(layer, sums)  # type: ignore[arg-type]

    def learn(self, layer: nn.Module, features: Tensor, largest: float) -> list[int]:
        """Adapt a fitted layer, in place, to rows with these features (rows, ...), which are of the usual kind.

        Their scores are at most `largest` afterwards. Returns for each row how much of the layer changed for it.
        """
        raise NotImplementedError

    def statistics(self, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
        """Return sums over a batch's rows, from features (rows, width) and labels (rows,), for closed-form methods.

        Results are added up over batches and workers, and then given to `solve`.
        """
        raise NotImplementedError

    def refine(self, features: Tensor, labels: Tensor, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return further sums over a batch's rows, given the statistics of all rows; for methods that read twice.

        Results are added up as those of `statistics`, and both are given to `solve`.
        """
        return {}

    def feature_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a step from the features (rows, width) and labels (rows,) of its rows over all workers,
        a scalar on the scale of a mean over rows; for methods that train features."""
        raise NotImplementedError

    def fit_head(self, head: nn.Linear, features: Tensor, labels: Tensor) -> None:
        """Write the head's weights, in place, from the features and labels of all training rows; for methods that train
        features."""
        raise NotImplementedError

    def solve(self, head: nn.Linear, statistics: Mapping[str, Tensor]) -> str | None:
        """Write the head's weights, in place, from the statistics summed over all training rows.

        Returns what the user should know of this solution, if anything.
        """
        raise NotImplementedError
