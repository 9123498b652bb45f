"""CORAL: the features' covariance is the source's again."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from regraft.adaptation.correction import Correction
from regraft.adaptation.sides import LinearHead, Side, check_sides
from regraft.methods.prototypes import ledoit_wolf

LEAST = 1e-6
"""Smallest variance, as a share of the average one."""


class CoralCorrection(Correction):
    """Target features whitened by their covariance and coloured by the source's, (x - m_t) C_t^-1/2 C_s^1/2 + m_s.

    Sun et al. (2016) move source rows to the target and fit the head again. Here target rows move to the source, so
    that the head stays. Covariances are shrunk by Ledoit and Wolf (2004), not by adding the identity, and means move
    too.
    """

    name: ClassVar[str] = "coral"

    def fold(self, head: LinearHead, source: Side, target: Side) -> LinearHead:
        """Return the head with its weights turned and a moved bias."""
        check_sides(source, target, head)
        weight = head.weight @ _recolouring(source.features, target.features).T
        shift = head.weight @ source.features.mean(0) - weight @ target.features.mean(0)
        return LinearHead(weight, head.bias + shift)

    def mapped(self, source: Side, target: Side) -> Tensor:
        """Return the recoloured target features."""
        turned = (target.features - target.features.mean(0)) @ _recolouring(source.features, target.features)
        return turned + source.features.mean(0)


def _recolouring(source: Tensor, target: Tensor) -> Tensor:
    """Return C_t^-1/2 C_s^1/2, (width, width); the identity where a side has no spread."""
    first, second = _power(source, 0.5), _power(target, -0.5)
    if first is None or second is None:
        return torch.eye(source.shape[1], dtype=torch.float64)
    return second @ first


def _power(rows: Tensor, exponent: float) -> Tensor | None:
    """Return a power of the shrunk covariance, or None where all rows are equal."""
    left = rows - rows.mean(0)
    scatter, squares = left.T @ left, left.square().sum(1)
    covariance = ledoit_wolf(scatter, squares.square().sum(), torch.tensor(float(len(rows)), dtype=torch.float64))
    values, vectors = torch.linalg.eigh(covariance)
    average = float(values.clamp_min(0).mean())
    if average <= 1e-18 * float(rows.square().mean()):
        return None
    power: Tensor = (vectors * values.clamp_min(LEAST * average).pow(exponent)) @ vectors.T
    return power
