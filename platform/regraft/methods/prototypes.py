"""Class prototypes: the head is solved from the class means of frozen features, without gradient steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from regraft.errors import Unsupported
from regraft.methods.feature_extraction import FeatureExtraction

SHARPNESS = 10.0
"""Logit of a row whose cosine to a prototype is 1, for features of average length."""
NEVER = -1e30
"""Bias of a class without rows: its probability is 0, and its logit is still finite."""


class Prototypes(FeatureExtraction):
    """Nearest class mean (Snell et al., 2017), as the equivalent linear head.

    `cosine` compares directions: class means of features scaled to length 1. `euclidean` compares distances: with
    W = 2 mu and b = -|mu|^2, the logits are -|x - mu|^2 up to a term that all classes share.
    """

    closed_form: ClassVar[bool] = True
    by_depth: ClassVar[bool] = False

    metric: Literal["cosine", "euclidean"] = "cosine"
    """How a row is compared with the prototypes."""

    def statistics(self, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
        """Return sums over rows in float64: `sums` of features and `units` of features scaled to length 1, both
        (classes, width); `counts` and `norms`, both (classes,).

        They add up over batches and workers. Rows with a label outside 0..classes-1 (no label) do not count.
        """
        known = (labels >= 0) & (labels < classes)
        rows, classes_of = features[known].double(), labels[known]
        norms = rows.norm(dim=1)
        units = rows / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        zeros = rows.new_zeros(classes, rows.shape[1])
        return {
            "sums": zeros.index_add(0, classes_of, rows),
            "units": zeros.index_add(0, classes_of, units),
            "counts": zeros.new_zeros(classes).index_add(0, classes_of, torch.ones_like(norms)),
            "norms": zeros.new_zeros(classes).index_add(0, classes_of, norms),
        }

    def solve(self, head: nn.Linear, statistics: Mapping[str, Tensor]) -> None:
        """Write weight and bias of the linear head, in place.

        Raises Unsupported where no row has a label, or where the head lacks a bias that is needed.
        """
        counts = statistics["counts"]
        if not counts.sum():
            raise Unsupported("there are no labelled rows to make prototypes of", where="method")
        weight, bias = _euclidean(statistics) if self.metric == "euclidean" else _cosine(statistics)
        absent = counts == 0
        weight[absent], bias[absent] = 0.0, NEVER
        if head.bias is None and bias.any():
            raise Unsupported("the head has no bias, which these prototypes need", where="method")
        with torch.no_grad():
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.copy_(bias)


def _euclidean(statistics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    means = statistics["sums"] / statistics["counts"].clamp_min(1)[:, None]
    return 2 * means, -means.square().sum(dim=1)


def _cosine(statistics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    units = nn.functional.normalize(statistics["units"], dim=1)
    length = statistics["norms"].sum() / statistics["counts"].sum()
    scale = SHARPNESS / length.clamp_min(torch.finfo(torch.float32).eps)
    return units * scale, torch.zeros_like(statistics["counts"])
