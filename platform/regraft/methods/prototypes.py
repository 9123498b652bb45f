"""Class prototypes: the head is solved from the class means of frozen features, without gradient steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import StrictBool, model_validator
from torch import Tensor, nn

from regraft.contracts import TrainingDefaults, TrainingFacts
from regraft.errors import Unsupported
from regraft.methods.feature_extraction import FeatureExtraction

SHARPNESS = 10.0
"""Logit of a row whose cosine to a prototype is 1, for features of average length."""
NEVER = -1e30
"""Bias of a class without rows: its probability is 0, and its logit is still finite."""
ALIKE = 1e-12
"""Spread within classes, as a share of the means' squared length, that is rounding and no spread."""


class Prototypes(FeatureExtraction):
    """Nearest class mean (Snell et al., 2017) or Gaussian discriminant analysis, as the equivalent linear head.

    `cosine` compares directions: class means of features scaled to length 1. `euclidean` compares distances: with
    W = 2 mu and b = -|mu|^2, the logits are -|x - mu|^2 up to a term that all classes share.

    With `covariance: shared`, classes are Gaussians with one covariance S, shrunk by Ledoit and Wolf (2004), and their
    shares of the training rows as priors: W = S^-1 mu and b = ln pi - mu' S^-1 mu / 2. It compares distances as they
    are with `cosine: false`, and otherwise features scaled to length 1, exactly so for those of average length. It
    reads the rows twice. Where no class has two different rows there is no S: the head then holds plain prototypes,
    and the run says so.
    """

    closed_form: ClassVar[bool] = True
    by_depth: ClassVar[bool] = False
    later: ClassVar[frozenset[str]] = frozenset({"covariance", "cosine", "of"})

    of: Literal["rows", "prompts"] = "rows"
    """rows: prototypes are made of training rows. prompts: they are those of the texts of the classes, on a base that
    reads images and texts (zero-shot); the training rows then only name the labels."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """How a row is compared with the prototypes."""
    covariance: Literal["none", "shared"] = "none"
    """Whether distances count in units of the spread within classes: none, or one covariance for all classes, which
    pays with many rows a class rather than with a few."""
    cosine: StrictBool | None = None
    """In place of `metric`: true for cosine, false for euclidean."""

    @model_validator(mode="before")
    @classmethod
    def _metric_of_cosine(cls, written: Any) -> Any:
        if isinstance(written, dict) and isinstance(written.get("cosine"), bool):
            return {**written, "metric": "cosine" if written["cosine"] else "euclidean", "cosine": None}
        return written

    @property
    def reads_twice(self) -> bool:  # type: ignore[override]
        """Whether the spread around the class means is needed, which a first pass gives."""
        return self.covariance == "shared" and self.of == "rows"

    def needs(self) -> frozenset[str]:
        """Return what a task must support."""
        return super().needs() | ({"prompts"} if self.of == "prompts" else frozenset())

    def defaults(self, facts: TrainingFacts) -> TrainingDefaults:
        """Return values that are not used: the head is solved."""
        return TrainingDefaults()

    def statistics(self, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
        """Return sums over rows in float64: `sums` of features and `units` of features scaled to length 1, both
        (classes, width); `counts` and `norms`, both (classes,).

        They add up over batches and workers. Rows with a label outside 0..classes-1 (no label) do not count.
        """
        known = (labels >= 0) & (labels < classes)
        rows, classes_of = features[known].double(), labels[known]
        norms = rows.norm(dim=1)
        zeros = rows.new_zeros(classes, rows.shape[1])
        return {
            "sums": zeros.index_add(0, classes_of, rows),
            "units": zeros.index_add(0, classes_of, _units(rows)),
            "counts": zeros.new_zeros(classes).index_add(0, classes_of, torch.ones_like(norms)),
            "norms": zeros.new_zeros(classes).index_add(0, classes_of, norms),
        }

    def refine(self, features: Tensor, labels: Tensor, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return sums over rows of what is left after the class mean: `scatter` (width, width) of its products, and
        `fourth` of its length to the fourth power."""
        known = (labels >= 0) & (labels < len(statistics["counts"]))
        rows = features[known].double()
        left = (_units(rows) if self.metric == "cosine" else rows) - self._means(statistics)[labels[known]]
        return {"scatter": left.T @ left, "fourth": left.square().sum(dim=1).square().sum()}

    def solve(self, head: nn.Linear, statistics: Mapping[str, Tensor]) -> str | None:
        """Write weight and bias of the linear head, in place; return that there was no covariance, where that is so.

        Raises Unsupported where no row has a label, or where the head lacks a bias that is needed.
        """
        if self.of == "prompts":
            return None
        counts = statistics["counts"]
        if not counts.sum():
            raise Unsupported("there are no labelled rows to make prototypes of", where="method")
        spread = self.covariance == "shared" and _spread(self._means(statistics), statistics)
        if spread:
            weight, bias = self._gaussian(statistics)
        else:
            weight, bias = _euclidean(statistics) if self.metric == "euclidean" else _cosine(statistics)
        absent = counts == 0
        weight[absent], bias[absent] = 0.0, NEVER
        if head.bias is None and bias.any():
            raise Unsupported("the head has no bias, which these prototypes need", where="method")
        with torch.no_grad():
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.copy_(bias)
        if spread or self.covariance == "none":
            return None
        return (
            "method.covariance: shared is written, and no class has two different rows to estimate it from: "
            "the head holds plain prototypes, as with covariance: none"
        )

    def _means(self, statistics: Mapping[str, Tensor]) -> Tensor:
        """Return the class means of features, scaled to length 1 where directions are compared."""
        sums = statistics["units" if self.metric == "cosine" else "sums"]
        return sums / statistics["counts"].clamp_min(1)[:, None]

    def _gaussian(self, statistics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return weight and bias of Gaussian discriminant analysis."""
        means, counts = self._means(statistics), statistics["counts"]
        covariance = ledoit_wolf(statistics["scatter"], statistics["fourth"], counts.sum())
        weight = means @ torch.linalg.pinv(covariance, hermitian=True)
        bias = (counts / counts.sum()).log() - (weight * means).sum(dim=1) / 2
        return (weight / _length(statistics) if self.metric == "cosine" else weight), bias


def ledoit_wolf(scatter: Tensor, fourth: Tensor, rows: Tensor) -> Tensor:
    """Return the covariance of centred rows, shrunk to a multiple of the identity (Ledoit and Wolf, 2004).

    `scatter` is the sum of the rows' products, and `fourth` that of their lengths to the fourth power.
    """
    width = len(scatter)
    plain = scatter / rows
    variance, squares = plain.trace() / width, plain.square().sum()
    distance = squares - width * variance.square()
    error = (fourth / rows - squares) / rows
    share = (error.clamp_min(0) / distance).clamp(max=1) if distance > 0 else error.new_zeros(())
    return (1 - share) * plain + share * variance * torch.eye(width, dtype=plain.dtype, device=plain.device)


def _spread(means: Tensor, statistics: Mapping[str, Tensor]) -> bool:
    """Return whether rows of a class differ by more than rounding."""
    largest = means.square().sum(dim=1).max()
    return bool(statistics["scatter"].trace() > ALIKE * statistics["counts"].sum() * largest)


def _units(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.norm(dim=1)
    return rows / lengths.clamp_min(torch.finfo(torch.float64).tiny)[:, None]


def _length(statistics: Mapping[str, Tensor]) -> Tensor:
    """Return the average length of features."""
    length = statistics["norms"].sum() / statistics["counts"].sum()
    return length.clamp_min(torch.finfo(torch.float32).eps)


def _euclidean(statistics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    means = statistics["sums"] / statistics["counts"].clamp_min(1)[:, None]
    return 2 * means, -means.square().sum(dim=1)


def _cosine(statistics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    units = nn.functional.normalize(statistics["units"], dim=1)
    return units * (SHARPNESS / _length(statistics)), torch.zeros_like(statistics["counts"])
