"""Whether validators are listened to at all: they reward certainty, which is right only where classes lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from regraft.adaptation.members import validators
from regraft.adaptation.probabilities import accuracy, entropy
from regraft.adaptation.validator import Outputs, paired_interval

LEAST_SOURCE_ACCURACY = 0.9
"""Least accuracy of source-only on source rows. Below it classes overlap on the source already."""
LEAST_PROBE_GAIN = 0.05
"""Least gain of the probe in IM, as a share of what source-only's lacks to ln(classes)."""
LEAST_DECIDED = 0.85
"""Least decidedness on target rows, as a share of that on source rows, for candidates that are not aligned."""


@dataclass(frozen=True)
class Grounds:
    """What speaks for the validators; None where it is unknown."""

    source_accuracy: float | None
    probe_gain: float | None
    """The probe's gain in IM as a share of what source-only lacks; 0 where its interval holds 0."""
    decided: float | None
    """How decidedly source-only answers target rows beside source rows: the ratio of IM / H(mean p) on both."""

    def against(self, *, aligned: bool) -> str:
        """Return why validators say nothing of a candidate; empty if they are listened to."""
        if self.source_accuracy is None:
            return "No labelled source rows show whether the classes can be told apart."
        if self.source_accuracy < LEAST_SOURCE_ACCURACY:
            return (
                f"Source-only is right on {self.source_accuracy:.3f} of the source rows. Below {LEAST_SOURCE_ACCURACY} "
                "classes overlap, and validators, which reward certainty, are not listened to. Labelled target rows "
                "settle it."
            )
        if (self.probe_gain or 0) >= LEAST_PROBE_GAIN or (not aligned and (self.decided or 0) >= LEAST_DECIDED):
            return ""
        return (
            f"Z-scores by domain do not make the answers more decided ({_text(self.probe_gain)} of what is lacking, "
            f"{LEAST_PROBE_GAIN} is the least), and source-only answers target rows {_text(self.decided)} times as "
            f"decidedly as source rows ({LEAST_DECIDED} is the least, without alignment)."
        )


def grounds_of(source_only: Outputs, probe: Outputs | None, *, seed: int = 0) -> Grounds:
    """Return what speaks for the validators, from source-only's outputs and those of the probe."""
    labels = source_only.source_labels
    if labels is None or not len(labels) or not source_only.finite:
        return Grounds(None, None, None)
    kept = accuracy(source_only.source_logits, labels)
    before, after = decidedness(source_only.source_logits), decidedness(source_only.target_logits)
    return Grounds(kept, _probe_gain(source_only, probe, seed), after / before if before > 0 else None)


def decidedness(logits: Tensor) -> float:
    """Return IM / H(mean p), from 0 (each row is answered like all of them) to 1 (each row by one class alone)."""
    probabilities = logits.softmax(1)
    whole = float(entropy(probabilities.mean(0)))
    return 1 - float(entropy(probabilities).mean()) / whole if whole > 0 else 0.0


def _probe_gain(source_only: Outputs, probe: Outputs | None, seed: int) -> float | None:
    if probe is None:
        return None
    validator = validators()["im"]
    interval, usual = paired_interval(validator, probe, source_only, seed=seed), validator.score(source_only)
    if interval is None or usual is None:
        return None
    lacking = math.log(source_only.target_logits.shape[1]) - usual
    return interval.difference / lacking if interval.low > 0 and lacking > 0 else 0.0


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
