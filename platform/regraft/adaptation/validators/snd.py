"""Soft neighbourhood density: target rows of a class lie close together."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional as F

from regraft.adaptation.probabilities import entropy
from regraft.adaptation.validator import Outputs, Validator

TEMPERATURE = 0.05
BLOCK = 512
"""Rows whose similarities are held at once."""


class SoftNeighbourhoodDensity(Validator):
    """The mean entropy of each target row's similarity to the other ones (Saito et al., 2021).

    Similarities are cosines of softmax outputs over a temperature of 0.05. A model that answers the same for every row
    has the largest value, so the collapse guard must stand beside it.
    """

    name: ClassVar[str] = "snd"

    def score(self, outputs: Outputs) -> float | None:
        """Return the entropy; None with fewer than two target rows or with logits that are no numbers."""
        rows = len(outputs.target_logits)
        if rows < 2 or not outputs.finite:
            return None
        units = F.normalize(outputs.target_logits.softmax(1), dim=1)
        total = 0.0
        for start in range(0, rows, BLOCK):
            block = units[start : start + BLOCK]
            similar = block @ units.T / TEMPERATURE
            places = torch.arange(len(block))
            similar[places, places + start] = -torch.inf
            total += float(entropy(similar.softmax(1)).sum())
        return total / rows
