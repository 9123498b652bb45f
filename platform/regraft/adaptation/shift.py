"""Whether target rows differ from source rows: in their classes' shares, in their features, or not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from regraft.adaptation.label_prior import PriorEstimate, estimate_prior
from regraft.adaptation.sides import LinearHead, Side, check_sides
from regraft.adaptation.two_sample import TwoSample, classifier_test, mmd_test

LEVEL = 0.001
"""Level of each test."""
LEAST_AUC = 0.55
"""Least AUC of the classifier of the two sides that counts as a shift."""
LEAST_MMD = 0.005
"""Least squared MMD that counts as a shift."""
GATE = 0.7
"""AUC with source rows weighted by the estimated prior, below which the classes' shares explain the shift."""
MIN_ROWS = 20
"""Fewest rows of a side for a test."""
MOST_ROWS = 2000
"""Most rows of a side that are compared."""


class ShiftKind(StrEnum):
    """What differs between the two sides."""

    UNKNOWN = "unknown"
    """Too few rows to test."""
    NONE = "none"
    LABEL = "label"
    COVARIATE = "covariate"


@dataclass(frozen=True, eq=False)
class Shift:
    """A diagnosis, with the figures that it rests on; a figure that cannot be computed is None."""

    kind: ShiftKind
    reason: str
    """One sentence for people."""
    classifier: TwoSample | None = None
    """Out-of-fold AUC of a classifier of target against source rows."""
    mmd: TwoSample | None = None
    """Unbiased squared MMD, with its p over permutations."""
    prior: PriorEstimate | None = None
    weighted_auc: float | None = None
    """The AUC with source rows weighted by the estimated prior: 0.5 if the prior explains all."""


def diagnose(source: Side, target: Side, head: LinearHead, seed: int = 0) -> Shift:
    """Return what differs. The source rows are best those that neither features nor head were fitted on.

    Raises RequestError for a side with fewer than two rows, and for features that the head cannot read.
    """
    check_sides(source, target, head)
    if min(source.rows, target.rows) < MIN_ROWS:
        rows = f"{source.rows} source rows and {target.rows} target rows"
        return Shift(ShiftKind.UNKNOWN, f"{rows} are too few to see a shift: each side needs {MIN_ROWS}.")
    source, target = source.sample(MOST_ROWS, seed), target.sample(MOST_ROWS, seed + 1)
    classifier = classifier_test(source.features, target.features, seed=seed)
    mmd = mmd_test(source.features, target.features, seed=seed)
    prior, gate = None, None
    if source.labels is not None:
        logits = head.logits(source.features), head.logits(target.features)
        prior = estimate_prior(logits[0], source.labels, logits[1], seed=seed)
        gate = _weighted_auc(source, source.labels, target, prior)
    kind, reason = _kind(classifier, mmd, prior, gate)
    return Shift(kind, reason, classifier, mmd, prior, gate)


def _weighted_auc(source: Side, labels: Tensor, target: Side, prior: PriorEstimate) -> float:
    weights = prior.ratio[labels]
    return classifier_test(source.features, target.features, source_weights=weights).statistic


def _kind(
    classifier: TwoSample, mmd: TwoSample, prior: PriorEstimate | None, gate: float | None
) -> tuple[ShiftKind, str]:
    by_classifier = classifier.p <= LEVEL and classifier.statistic >= LEAST_AUC
    by_mmd = mmd.p <= LEVEL and mmd.statistic >= LEAST_MMD
    if prior is not None and gate is not None and prior.moved and gate < GATE:
        return ShiftKind.LABEL, (
            f"The classes' shares moved by {prior.distance:.0%} of the rows, which explains the difference: with "
            f"source rows weighted by it, a classifier tells the sides apart with an AUC of {gate:.2f} (below {GATE})."
        )
    if by_classifier or by_mmd or (prior is not None and prior.moved):
        rest = "" if gate is None else f", and of {gate:.2f} with source rows weighted by the estimated prior"
        return ShiftKind.COVARIATE, (
            f"The features moved: a classifier tells the sides apart with an AUC of {classifier.statistic:.2f}{rest}."
        )
    return ShiftKind.NONE, (
        f"No shift is seen: a classifier tells the sides apart with an AUC of {classifier.statistic:.2f} "
        f"(p = {classifier.p:.3f}), where 0.5 is chance."
    )
