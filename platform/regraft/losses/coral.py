"""CORAL: second moments of source and target features are brought together."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from regraft.contracts import Anatomy, Loss, Need, Step
from regraft.losses.shared.pairs import features_of


class Coral(Loss):
    """Deep CORAL (Sun and Saenko, 2016): |C_s - C_t|^2 / (4 d^2), with the covariances of d features.

    It moves the features, and needs a method that moves the base. Fewer than two rows on a side add nothing.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"target", "features"})
    whole_step: ClassVar[bool] = True

    def build(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Return the term."""
        return CovarianceDistance()


class CovarianceDistance(nn.Module):
    """The squared Frobenius distance of two covariances, over four times the squared width."""

    def forward(self, step: Step) -> Tensor:
        """Return the distance, a scalar."""
        return coral(*features_of(step))


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Return |C_s - C_t|^2 / (4 d^2) of features (rows, d); 0 where a side has fewer than two rows."""
    if min(len(source), len(target)) < 2:
        return source.sum() * 0 + target.sum() * 0
    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def covariance(features: Tensor) -> Tensor:
    """Return the unbiased covariance (width, width) of features (rows, width)."""
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
