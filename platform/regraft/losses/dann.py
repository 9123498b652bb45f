"""DANN: features from which a discriminator cannot tell source rows from target rows."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Need, Step
from regraft.losses.shared.adversary import Adversary
from regraft.losses.shared.pairs import features_of, width_of_features


class Dann(Loss):
    """Domain-adversarial training (Ganin et al., 2016): gradients of a domain classifier are reversed.

    Their factor rises from 0 to 1 over the run's own steps: 2 / (1 + exp(-10 progress)) - 1. It moves the features,
    and needs a method that moves the base.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"target", "features"})
    whole_step: ClassVar[bool] = True

    width: int = Field(1024, ge=1, le=8192)
    """Units in each of the discriminator's two hidden layers."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term. Raises Unsupported where the head's last layer is not linear."""
        return FeatureAdversary(width_of_features(model, anatomy), self.width)


class FeatureAdversary(nn.Module):
    """A domain classifier on features."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.adversary = Adversary(inputs, width)

    def forward(self, step: Step) -> Tensor:
        """Return the mean of both sides' cross entropy, a scalar."""
        source, target = features_of(step)
        found: Tensor = self.adversary(source, target, step.progress)
        return found
