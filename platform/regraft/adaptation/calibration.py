"""Temperature scaling with a bias for each class, fitted on held-out source rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regraft.errors import RequestError

BIAS_PENALTY, TEMPERATURE_PENALTY = 3.0, 1.0
"""Beside the sum of the loss over rows. Of 0.03 to 1,000,000, 3 served the tickets' classes best (development rows)."""
STEPS = 60
LOWEST = -100.0
"""Smallest logit beside the row's largest: a class that the head never predicts must leave the loss finite."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibrated logits are `logits / temperature + bias`."""

    temperature: float
    bias: Tensor

    def logits(self, logits: Tensor) -> Tensor:
        """Return calibrated logits (rows, classes)."""
        return logits / self.temperature + self.bias


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the bias-corrected temperature (Alexandari et al., 2020) of least loss.

    Biases and the temperature's logarithm are penalised a little, so that few rows, or a class without rows, leave
    them finite.
    """
    if not len(labels):
        raise RequestError("there are no labelled source rows to calibrate on")
    logits = (logits - logits.amax(1, keepdim=True)).clamp_min(LOWEST)
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits * logarithm.exp() + bias, labels, reduction="sum")
        penalty = TEMPERATURE_PENALTY * logarithm.square() + BIAS_PENALTY * bias.square().sum()
        value = (value + penalty / 2) / len(labels)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Calibration(float((-logarithm.detach()).exp()), bias.detach())
