"""Detection: what a fitted detector of anomalies says of a batch, as closed-form methods make it and tasks read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Detection:
    """Distances from what is usual, beside the scores of usual rows that the detector was not fitted to."""

    map: Tensor
    """Distance of each part of an input, (rows, height, width) of the detector's grid."""
    score: Tensor
    """Distance of each input, (rows,)."""
    usual: Tensor
    """Scores of usual rows, the largest first, (rows, kept); the same for every row of a batch."""
    count: Tensor
    """The number of usual rows whose scores these are, (rows,); of more than are kept, every n-th score is kept."""
