"""What an adaptation found, as plain words and as figures for its document and its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from regraft.adaptation.choice import Choice, Judgement
from regraft.adaptation.climb import Tried
from regraft.adaptation.guard import guard
from regraft.adaptation.label_prior import PriorEstimate
from regraft.adaptation.shift import Shift
from regraft.adaptation.two_sample import TwoSample
from regraft.adaptation.validator import Outputs

LABELS_SETTLE = (
    "A few labelled rows settle it: --check ROWS compares the choice with the source-only model, and rows in "
    "data.target_labels train a candidate of their own."
)
MOST_CLASSES = 40
"""Classes whose shares the document lists."""


def headline(choice: Choice) -> str:
    """Return the decision in a few words."""
    return f"adapted by {choice.name}" if choice.adapted else "do not adapt"


def risk(choice: Choice, labelled: bool) -> str:
    """Return what the decision cannot know; `labelled` says whether the chosen candidate read labels of the target."""
    if labelled:
        return (
            "The chosen model was trained on labelled target rows; how right it is on other ones was not measured. "
            "--check ROWS measures it on rows that it was not trained on."
        )
    if choice.adapted:
        return (
            "No label of the target was read. The candidate is surer of its answers for target rows, and it is not "
            f"known whether more of them are right. {LABELS_SETTLE}"
        )
    return (
        "No label of the target was read. The source-only model may be wrong on target rows more often than on its "
        f"own; no candidate was shown to be better. {LABELS_SETTLE}"
    )


def diagnosis(shift: Shift, labels: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a diagnosis."""
    return {
        "kind": str(shift.kind),
        "reason": shift.reason,
        "classifier": _test(shift.classifier),
        "mean_discrepancy": _test(shift.mmd),
        "weighted_auc": shift.weighted_auc,
        "prior": None if shift.prior is None else _prior(shift.prior, labels),
    }


def _test(found: TwoSample | None) -> dict[str, float] | None:
    return None if found is None else {"statistic": found.statistic, "p": found.p}


def _prior(found: PriorEstimate, labels: Sequence[str]) -> dict[str, Any]:
    """Return the shares of the classes on both sides, those that differ most first."""
    order = torch.argsort((found.target - found.source).abs(), descending=True)[:MOST_CLASSES].tolist()
    shares = [
        {
            "class": labels[at],
            "source": float(found.source[at]),
            "target": float(found.target[at]),
            "low": float(found.low[at]),
            "high": float(found.high[at]),
        }
        for at in order
    ]
    return {"moved": found.moved, "distance": found.distance, "classes": shares}


def candidates(choice: Choice, tried: Sequence[Tried], source_only: Outputs) -> list[dict[str, Any]]:
    """Return what is known of each candidate, in the order of the ladder; the source-only model comes first."""
    judged = {item.name: item for item in choice.judgements}
    first = [_entry(judged[choice.judgements[0].name], None, source_only, source_only)]
    return first + [
        _entry(judged[one.name], one, one.candidate.outputs, source_only) if one.candidate else _absent(one)
        for one in tried
    ]


def _entry(item: Judgement, one: Tried | None, outputs: Outputs, source_only: Outputs) -> dict[str, Any]:
    finding = item.finding or guard(outputs, source_only)
    intervals = {
        name: None if found is None else {"difference": found.difference, "low": found.low, "high": found.high}
        for name, found in item.intervals.items()
    }
    return {
        "name": item.name,
        "chosen": item.chosen,
        "source_score": finding.source_accuracy,
        "effective_classes": finding.effective_classes,
        "against": list(finding.against),
        "validators": dict(item.scores),
        "intervals": intervals,
        "verdict": item.reason,
        "run": one.model.run if one and one.model else None,
        "seconds": one.seconds if one else None,
    }


def _absent(one: Tried) -> dict[str, Any]:
    return {
        "name": one.name,
        "chosen": False,
        "source_score": None,
        "effective_classes": None,
        "against": [],
        "validators": {},
        "intervals": {},
        "verdict": one.why_not,
        "run": None,
        "seconds": one.seconds,
    }
