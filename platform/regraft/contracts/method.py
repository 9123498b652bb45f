"""Method: which weights move."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from regraft.contracts.anatomy import Anatomy, under
from regraft.plugins import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

Serving = Literal["head", "low_rank", "whole"]
"""How a served model shares its base: all of it up to the head; all with low-rank factors per row; or not at all."""


class Method(Plugin, ABC):
    """Which weights move. The other floors ask these questions and never for a method's name.

    The default `adapt` freezes what `frozen` names: feature extraction, freezing at a depth and full fine-tuning
    differ in that answer alone.
    """

    family: ClassVar[str] = "methods"
    serves: ClassVar[Serving] = "whole"
    closed_form: ClassVar[bool] = False
    """Fitted from sums over the training rows, without gradient steps: `statistics` and `solve`."""

    def depth_of(self, anatomy: Anatomy) -> int:
        """How many blocks stay the base's own function: what the trunk may compute once."""
        return 0

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Names of modules (or single parameters) whose values stay the base's."""
        return anatomy.trunk(self.depth_of(anatomy))

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Prepare the model in place, once, before the optimizer and any wrapping."""
        frozen = self.frozen(model, anatomy)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not under(name, frozen))

    def merge(self, model: nn.Module) -> None:
        """Turn an adapted model in place into one of the base's own architecture, with the same outputs."""

    def statistics(self, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
        """Closed form: additive statistics of (rows, width) features and (rows,) labels."""
        raise NotImplementedError

    def solve(self, head: nn.Linear, statistics: Mapping[str, Tensor]) -> None:
        """Closed form: write the head from the statistics summed over all rows."""
        raise NotImplementedError
