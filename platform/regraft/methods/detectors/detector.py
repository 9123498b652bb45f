"""A layer that turns patches into distances from what is usual, with the scores of usual rows to compare with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regraft.contracts.detection import Detection

KEPT_SCORES = 1000
"""Scores of usual rows that are kept; of more rows, as many evenly spaced ones."""


class Detector(nn.Module):
    """Base of the layers; parameters hold what was fitted, so that a delta holds it too."""

    def __init__(self, top_share: float = 0.0) -> None:
        """`top_share` is the share of patches whose mean distance is the score; 0 for the largest alone."""
        super().__init__()
        self.top_share = top_share
        self.usual = nn.Parameter(torch.zeros(KEPT_SCORES))
        self.count = nn.Parameter(torch.zeros(()))

    @abstractmethod
    def distances(self, patches: Tensor) -> Tensor:
        """Return the distance of each patch, (rows, height, width), from patches (rows, width, height, width)."""

    def scores(self, distances: Tensor) -> Tensor:
        """Return the score of each row, (rows,): the mean of its largest distances."""
        flat = distances.flatten(1)
        found: Tensor = flat.topk(max(1, round(self.top_share * flat.shape[1])), dim=1).values.mean(1)
        return found

    def score_code(self) -> str:
        """Return Python that makes the `score` of `distances`."""
        most = f"max(1, round({self.top_share} * distances.numel()))"
        return f"score = distances.flatten().topk({most}).values.mean()"

    def forward(self, patches: Tensor) -> Detection:
        """Return what is unusual in each row; rows are computed one by one, so that no answer depends on others."""
        distances = torch.cat([self.distances(row[None]) for row in patches.float()])
        rows = len(patches)
        return Detection(
            distances, self.scores(distances), self.usual.expand(rows, KEPT_SCORES), self.count.expand(rows)
        )

    def keep_scores(self, scores: Sequence[float]) -> None:
        """Keep the scores of usual rows, each found without the row itself."""
        ordered = torch.tensor(sorted(scores, reverse=True))
        if len(ordered) > KEPT_SCORES:
            ordered = ordered[torch.linspace(0, len(ordered) - 1, KEPT_SCORES).long()]
        with torch.no_grad():
            self.usual.zero_()
            self.usual[: len(ordered)] = ordered.to(self.usual)
            self.count.fill_(float(len(scores)))
