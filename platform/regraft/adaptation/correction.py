"""The root of the family of corrections, and a candidate's outputs after one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from regraft.adaptation.sides import LinearHead, Side
from regraft.adaptation.validator import Outputs


class Correction(ABC):
    """A change of how target rows are read that is affine in their features, so that a linear head holds it."""

    name: ClassVar[str]
    """How pages and documents call it."""
    for_label_shift: ClassVar[bool] = False
    """Whether it is for a moved prior, and otherwise for features that moved."""
    probe: ClassVar[bool] = False
    """Whether its gain shows that the features' statistics moved, so that the validators are listened to."""

    @abstractmethod
    def fold(self, head: LinearHead, source: Side, target: Side) -> LinearHead:
        """Return the head that reads target rows as this correction would have them read."""

    def mapped(self, source: Side, target: Side) -> Tensor:
        """Return the target features as the uncorrected head reads them, (rows, width)."""
        return target.features


def outputs_of(head: LinearHead, source: Side, target: Side, correction: Correction | None = None) -> Outputs:
    """Return the outputs of a head, corrected for the target rows or as it is."""
    if correction is None:
        features, logits = target.features, head.logits(target.features)
    else:
        features = correction.mapped(source, target)
        logits = correction.fold(head, source, target).logits(target.features)
    return Outputs(source.features, head.logits(source.features), source.labels, features, logits)
