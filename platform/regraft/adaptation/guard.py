"""The guard against candidates that collapsed: what no validator is trusted to notice."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.adaptation.probabilities import accuracy, effective_classes
from regraft.adaptation.validator import Interval, Outputs

LEAST_CLASSES = 0.6
"""Least effective number of predicted classes on target rows, as a share of source-only's."""
LEAST_SPREAD = 0.1
"""Least effective number of classes above one, as a share of source-only's on source rows.

Where source-only itself collapsed on target rows, the first rule asks too little.
"""
MOST_LOST = 0.02
"""Most of the source's accuracy that a candidate may lose."""


@dataclass(frozen=True)
class GuardFinding:
    """What the guard measured of a candidate, and why it refuses it, if it does."""

    effective_classes: float | None
    source_accuracy: float | None
    against: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the candidate."""
        return not self.against


def guard(candidate: Outputs, source_only: Outputs, interval: Interval | None = None) -> GuardFinding:
    """Return what speaks against a candidate; `interval` is that of a validator's difference to source-only."""
    if not candidate.finite or not len(candidate.target_logits):
        return GuardFinding(None, None, ("its outputs are not numbers, or there are none",))
    classes, usual = effective_classes(candidate.target_logits), effective_classes(source_only.target_logits)
    against = []
    if classes < LEAST_CLASSES * usual:
        against.append(f"it predicts {classes:.1f} effective classes where source-only predicts {usual:.1f}")
    floor = 1 + LEAST_SPREAD * (effective_classes(source_only.source_logits) - 1)
    if classes < floor:
        against.append(f"it predicts {classes:.2f} effective classes; {floor:.2f} is the least")
    kept = _source_accuracy(candidate)
    before = _source_accuracy(source_only)
    if kept is not None and before is not None and kept < before - MOST_LOST:
        against.append(f"its accuracy on source rows is {kept:.3f} where source-only's is {before:.3f}")
    if interval is not None and interval.low <= 0:
        against.append(f"its gain is {interval.difference:.3f} with an interval from {interval.low:.3f}")
    return GuardFinding(classes, kept, tuple(against))


def _source_accuracy(outputs: Outputs) -> float | None:
    if outputs.source_labels is None or not len(outputs.source_labels):
        return None
    return accuracy(outputs.source_logits, outputs.source_labels)
