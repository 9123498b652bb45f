"""Z-scores by domain: each feature has the source's mean and spread again."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from regraft.adaptation.correction import Correction
from regraft.adaptation.sides import LinearHead, Side, check_sides

MOST_SCALE = 10.0
"""Largest factor by which a feature is stretched: one that hardly moves among target rows is mostly noise."""


class ZscoreCorrection(Correction):
    """Target features scaled and shifted to the source's means and standard deviations.

    A feature that is constant on either side is shifted alone.
    """

    name: ClassVar[str] = "zscore"
    probe: ClassVar[bool] = True

    def fold(self, head: LinearHead, source: Side, target: Side) -> LinearHead:
        """Return the head with scaled weights and a moved bias."""
        check_sides(source, target, head)
        scale = _scale(source.features, target.features)
        shift = source.features.mean(0) - target.features.mean(0) * scale
        return LinearHead(head.weight * scale, head.bias + head.weight @ shift)

    def mapped(self, source: Side, target: Side) -> Tensor:
        """Return the scaled and shifted target features."""
        scale = _scale(source.features, target.features)
        return (target.features - target.features.mean(0)) * scale + source.features.mean(0)


def _scale(source: Tensor, target: Tensor) -> Tensor:
    wanted, given = source.std(0, correction=0), target.std(0, correction=0)
    size = torch.maximum(source.abs().amax(0), target.abs().amax(0))
    constant = torch.minimum(wanted, given) <= 1e-9 * size
    return torch.where(constant, 1.0, wanted / given.clamp_min(1e-300)).clamp(1 / MOST_SCALE, MOST_SCALE)
