"""Distance of patches to a Gaussian of usual ones at each place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.methods.detectors.detector import Detector

EASED = 0.9
"""Distance that a taught place has afterwards, as a share of what is allowed."""


class PlaceGaussians(Detector):
    """A mean and a precision for each place of a square grid; the distance is Mahalanobis'."""

    def __init__(self, grid: int, count: int, width: int, *, top_share: float) -> None:
        """The grid has `grid` places a side; `count` channels of `width` are read, evenly spaced."""
        super().__init__(top_share)
        self._grid = grid
        self.channels = [place * width // count for place in range(count)]
        self.mean = nn.Parameter(torch.zeros(grid * grid, count))
        self.factor = nn.Parameter(torch.zeros(grid * grid, count * (count + 1) // 2))

    def code(self) -> str:
        """Return Python that makes a `score` of `patches` with the tensors `detector`."""
        return (
            f"chosen = {self.channels}\n"
            f"vectors = adaptive_avg_pool2d(patches[:, chosen], {self._grid})[0].flatten(1).T\n"
            "factor = torch.zeros(len(vectors), len(chosen), len(chosen))\n"
            "below = torch.tril_indices(len(chosen), len(chosen))\n"
            'factor[:, below[0], below[1]] = detector["factor"]\n'
            'distances = torch.einsum("pc,pcd->pd", vectors - detector["mean"], factor).norm(dim=1)\n'
            f"{self.score_code()}"
        )

    def reduced(self, patches: Tensor) -> Tensor:
        """Return vectors (rows, places, channels) of patches (rows, width, height, width)."""
        chosen = patches[:, self.channels].float()
        return F.adaptive_avg_pool2d(chosen, self._grid).flatten(2).transpose(1, 2)

    def factors(self) -> Tensor:
        """Return the lower factor of each place's precision, (places, channels, channels)."""
        count = self.mean.shape[1]
        found = self.factor.new_zeros(len(self.factor), count, count, dtype=torch.float32)
        rows, columns = torch.tril_indices(count, count, device=found.device)
        found[:, rows, columns] = self.factor.float()
        return found

    def distances(self, patches: Tensor) -> Tensor:
        """Return distances (rows, grid, grid)."""
        left = (self.reduced(patches) - self.mean.float()).transpose(0, 1)
        found: Tensor = (left @ self.factors()).norm(dim=2)
        return found.T.reshape(len(patches), self._grid, self._grid)

    def set_gaussians(self, mean: Tensor, covariance: Tensor) -> None:
        """Set the means (places, channels) and the covariances (places, channels, channels)."""
        self.mean.copy_(mean.to(self.mean))
        self._set_precision(torch.linalg.inv(covariance))

    def _set_precision(self, precision: Tensor) -> None:
        factor = torch.linalg.cholesky((precision + precision.mT) / 2)
        rows, columns = torch.tril_indices(*factor.shape[1:], device=factor.device)
        self.factor.copy_(factor[:, rows, columns].to(self.factor))

    def ease(self, patches: Tensor, largest: float) -> int:
        """Widen the Gaussians where one row is farther than `largest`, so that it is nearer; return how many."""
        away = self.distances(patches).flatten()
        far = (away > EASED * largest).nonzero()[:, 0]
        if not len(far):
            return 0
        left = (self.reduced(patches)[0] - self.mean.float())[far].double()
        factor = self.factors().double()
        precision = factor @ factor.mT
        towards = (precision[far] @ left[..., None])[..., 0]
        square = away[far].double().square()
        # One rank more of covariance (Sherman and Morrison, 1950), of the size that leaves the wanted distance.
        more = (square / (EASED * largest) ** 2 - 1) / square
        shrink = more / (1 + more * square)
        precision[far] -= shrink[:, None, None] * towards[:, :, None] * towards[:, None, :]
        self._set_precision(precision)
        return len(far)
