"""MCC: a model that confuses classes of the target rows is corrected, without their labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Need, Step
from regraft.losses.shared.pairs import class_probabilities, target_of


class Mcc(Loss):
    """Minimum class confusion (Jin et al., 2020), on the probabilities of the target rows alone.

    It needs no discriminator and no features, and moves what the method moves, a head alone too. With several
    labels a row, each label is a problem of two classes, and the mean over labels counts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"target", "classes"})
    whole_step: ClassVar[bool] = True

    temperature: float = Field(2.5, gt=0)
    """Divides the logits before the softmax."""

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term."""
        return ClassConfusion(self.temperature)


class ClassConfusion(nn.Module):
    """The mean confusion between classes of the step's target rows."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, step: Step) -> Tensor:
        """Return the confusion, a scalar between 0 and 1."""
        found = class_probabilities(step, target_of(step), self.temperature)
        return torch.stack([class_confusion(one, row_weights(one)) for one in found]).mean()


def row_weights(probabilities: Tensor) -> Tensor:
    """Return 1 + exp(-entropy) of each row, (rows,), scaled to a mean of 1 and without gradient."""
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1)
    certainty = (1 + torch.exp(-entropy)).detach()
    return certainty / certainty.mean()


def class_confusion(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Return the share of class correlations off the diagonal, for probabilities (rows, classes), weights (rows,)."""
    rows, classes = probabilities.shape
    if not rows:
        return probabilities.sum() * 0
    correlation = (probabilities * weights.unsqueeze(1)).T @ probabilities
    correlation = correlation / correlation.sum(1, keepdim=True).clamp(min=1e-12)
    return (correlation.sum() - correlation.diagonal().sum()) / classes
