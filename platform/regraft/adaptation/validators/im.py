"""Information maximisation: certain about each row, and undecided about all of them together."""

from __future__ import annotations

from typing import ClassVar

from regraft.adaptation.probabilities import entropy
from regraft.adaptation.validator import Outputs, Validator


class InformationMaximisation(Validator):
    """H(mean p) - mean H(p) over target rows: the mutual information of rows and predicted classes, in nats.

    As Musgrave et al. (2022) score it. It prefers methods that train the same quantity, such as MCC.
    """

    name: ClassVar[str] = "im"

    def score(self, outputs: Outputs) -> float | None:
        """Return the mutual information; None without target rows or with logits that are no numbers."""
        if not len(outputs.target_logits) or not outputs.finite:
            return None
        probabilities = outputs.target_logits.softmax(1)
        return float(entropy(probabilities.mean(0)) - entropy(probabilities).mean())
