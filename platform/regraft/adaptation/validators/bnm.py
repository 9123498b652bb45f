"""Batch nuclear norm: certain predictions that spread over the classes."""

from __future__ import annotations

from typing import ClassVar

import torch

from regraft.adaptation.validator import Outputs, Validator


class BatchNuclearNorm(Validator):
    """The nuclear norm of the target rows' probabilities, divided by the rows (Cui et al., 2020)."""

    name: ClassVar[str] = "bnm"

    def score(self, outputs: Outputs) -> float | None:
        """Return the norm; None without target rows or with logits that are no numbers."""
        if not len(outputs.target_logits) or not outputs.finite:
            return None
        probabilities = outputs.target_logits.softmax(1)
        return float(torch.linalg.svdvals(probabilities).sum() / len(probabilities))
