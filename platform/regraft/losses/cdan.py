"""CDAN: as DANN, for features joined with what the model predicts from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Need, Step
from regraft.losses.shared.adversary import Adversary
from regraft.losses.shared.pairs import (
    class_probabilities,
    classes_of,
    features_of,
    target_of,
    width_of_features,
)

LARGEST = 4096
"""Largest width of the complete product of features and probabilities; above it, random maps stand for it."""
RANDOM = 1024
"""Width of the random maps."""


class Cdan(Loss):
    """Conditional adversarial adaptation (Long et al., 2018): a discriminator reads features x probabilities.

    It moves the features, and needs a method that moves the base. Probabilities have no gradient here.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"target", "features", "classes"})
    whole_step: ClassVar[bool] = True

    entropy: bool = True
    """Weigh rows by 1 + exp(-entropy), so that certain ones count more (CDAN+E)."""
    width: int = Field(1024, ge=1, le=8192)
    """Units in each of the discriminator's two hidden layers."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term. Raises Unsupported where the head's last layer is not linear."""
        sizes = width_of_features(model, anatomy), classes_of(model, anatomy)
        return ConditionalAdversary(sizes, self.width, entropy=self.entropy)


class ConditionalAdversary(nn.Module):
    """A domain classifier on the product of features and class probabilities."""

    def __init__(self, sizes: tuple[int, int], width: int, *, entropy: bool) -> None:
        super().__init__()
        features, classes = sizes
        self.entropy = entropy
        self.random = features * classes > LARGEST
        if self.random:
            self.register_buffer("of_features", torch.randn(features, RANDOM))
            self.register_buffer("of_classes", torch.randn(classes, RANDOM))
        self.adversary = Adversary(RANDOM if self.random else features * classes, width)

    def forward(self, step: Step) -> Tensor:
        """Return the weighted mean of both sides' cross entropy, a scalar."""
        source, target = features_of(step)
        sides = [[one.detach() for one in class_probabilities(step, side, 1.0)] for side in (step, target_of(step))]
        weights = certainty([torch.cat(pair) for pair in zip(*sides, strict=True)]) if self.entropy else None
        first, second = map(conditions, sides)
        joined = self.product(source, first), self.product(target, second)
        found: Tensor = self.adversary(*joined, step.progress, weights)
        return found

    def product(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return features x probabilities, flattened (rows, inputs), or their random maps."""
        if not self.random:
            return (features.unsqueeze(2) * probabilities.unsqueeze(1)).flatten(1)
        maps = self.get_buffer("of_features").to(features), self.get_buffer("of_classes").to(features)
        scale: float = RANDOM**-0.5
        return scale * (features @ maps[0]) * (probabilities.to(features) @ maps[1])


def conditions(probabilities: Sequence[Tensor]) -> Tensor:
    """Return (rows, outputs): all classes of a row, or of several labels each one's probability to be present."""
    return probabilities[0] if len(probabilities) == 1 else torch.stack([one[:, 0] for one in probabilities], 1)


def certainty(probabilities: Sequence[Tensor]) -> Tensor:
    """Return 1 + exp(-entropy) of each row, (rows,), scaled to a mean of 1; the entropy is the mean over labels."""
    entropy = torch.stack([-(one * one.clamp(min=1e-12).log()).sum(1) for one in probabilities]).mean(0)
    found = 1 + torch.exp(-entropy)
    return found / found.mean()
