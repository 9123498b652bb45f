"""PaDiM: a Gaussian of usual patches at each place; what is far from it is an anomaly (Defard et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from regraft.contracts import FeatureRows
from regraft.errors import DataError
from regraft.methods.detectors.detector import Detector
from regraft.methods.detectors.gaussians import PlaceGaussians
from regraft.methods.detectors.patch_method import PatchMethod, learned_from, refuse_none_good


class Padim(PatchMethod):
    """A Gaussian for each place of a grid, over as many evenly spaced channels as the bound on memory allows.

    It suits images in which things have their places, such as parts in a holder. Scores of good rows are found without
    the row itself, exactly, from the same sums.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"place-gaussians"})

    bank_mb: float = Field(1.0, gt=0, le=4096)
    """Most megabytes of means and covariances; every version stores them, and they are in memory while it is served."""
    grid: PositiveInt = 14
    """Places of the grid in each direction; patches are averaged within a place."""
    channels: PositiveInt = 100
    """Most channels of a patch that are read."""
    shrinkage: float = Field(0.05, gt=0)
    """Share of the mean variance that is added to each variance, so that few rows suffice."""

    def detector(self, width: int) -> Detector:
        """Return Gaussians over as many channels as the bound allows."""
        places = self.grid * self.grid
        count = min(self.channels, width)
        while count > 1 and places * count * (count + 3) // 2 > self.floats():
            count -= 1
        return PlaceGaussians(self.grid, count, width, top_share=self.top_share)

    def fit(self, layer: Any, rows: FeatureRows) -> str | None:
        """Set the Gaussians from sums over one pass, and keep the scores of good rows from a second one."""
        sums = rows.summed(_sums(rows, layer))
        good, total = int(sums["good"]), int(sums["rows"])
        refuse_none_good(good, total)
        if good < 3:
            raise DataError(
                f"a Gaussian at each place needs three good rows, and there {'is one' if good == 1 else 'are two'}",
                where="data.train",
            )
        mean = sums["sum"] / good
        covariance = (sums["products"] - good * mean[:, :, None] * mean[:, None, :]) / (good - 1)
        variance = covariance.diagonal(dim1=1, dim2=2).mean().clamp_min(1e-12)
        eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
        layer.set_gaussians(mean, covariance + self.shrinkage * variance * eye)
        scores = list(_scores_without_own(layer, rows, good))
        layer.keep_scores([score for part in rows.gathered(scores) for score in part])
        places, channels = mean.shape
        size = 4 * sum(value.numel() for value in (layer.mean, layer.factor)) / 1e6
        return learned_from(good, total, f"{places:,} Gaussians over {channels} channels, {size:.2f} MB")

    def learn(self, layer: Any, features: Tensor, largest: float) -> list[int]:
        """Widen the Gaussians of the places where a row is farther than it may be."""
        return [
            layer.ease(row, largest) if float(layer.scores(layer.distances(row))) > largest else 0
            for row in features[:, None]
        ]


def without_row(distances: Tensor, rows: int) -> Tensor:
    """Return the distances of one of the `rows` rows to the Gaussians of all others, by those to the ones of all.

    Leaving a row out moves the mean and takes one rank from the covariance (Sherman and Morrison, 1950).
    """
    square, count = distances.double().square(), float(rows)
    left = 1 - square * count / (count - 1) ** 2
    scale = (count - 2) / (count - 1) * (count / (count - 1)) ** 2
    return (scale * square / left.clamp_min(1e-6)).sqrt().float()


def _sums(rows: FeatureRows, layer: PlaceGaussians) -> Iterator[dict[str, Tensor]]:
    """Yield sums over good rows of vectors and of their products, at each place, in float64."""
    for features, targets, _ in rows:
        vectors = layer.reduced(features[targets >= 0]).double().transpose(0, 1)
        yield {
            "sum": vectors.sum(1),
            "products": vectors.mT @ vectors,
            "rows": vectors.new_tensor(float(len(targets))),
            "good": vectors.new_tensor(float((targets >= 0).sum())),
        }


def _scores_without_own(layer: PlaceGaussians, rows: FeatureRows, good: int) -> Iterator[float]:
    """Yield the score of each good row by Gaussians of the others."""
    for features, targets, _ in rows:
        for row in features[targets >= 0][:, None]:
            yield float(layer.scores(without_row(layer.distances(row), good)))
