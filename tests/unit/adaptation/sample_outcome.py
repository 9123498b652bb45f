"""An outcome of `regraft adapt` as its page shows it."""

from __future__ import annotations

from typing import Any

from regraft.adaptation.outcome import AdaptOutcome

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


def candidate(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "chosen": False,
        "source_score": 0.981,
        "effective_classes": 9.3,
        "against": [],
        "validators": {"im": 2.1, "dev": None},
        "intervals": {},
        "verdict": "im does not say that it is better than source-only.",
        "run": None,
        "seconds": 0.4,
        **changes,
    }


def outcome(**changes: Any) -> AdaptOutcome:
    absent = {"validators": {}, "source_score": None, "effective_classes": None, "seconds": None}
    prior = {
        "moved": False,
        "distance": 0.02,
        "classes": [{"class": HOSTILE, "source": 0.5, "target": 0.52, "low": 0.4, "high": 0.6}],
    }
    return AdaptOutcome(
        model="tickets",
        version="v2",
        source="tickets@v1",
        adapted=True,
        chosen="mcc",
        headline="adapted by mcc",
        shift="The features moved.",
        why="The features moved. im and bnm say that it is better.",
        risk="No label of the target was read.",
        run="tickets-0123456789",
        store="/tmp/store",
        candidates=[
            candidate("source-only"),
            candidate("zscore", **absent, verdict="It failed."),
            candidate("mcc", chosen=True, intervals={"im": {"difference": 0.2, "low": 0.1, "high": 0.3}, "bnm": None}),
        ],
        diagnosis={
            "kind": "covariate",
            "classifier": {"statistic": 0.97, "p": 1e-9},
            "mean_discrepancy": None,
            "weighted_auc": 0.96,
            "prior": prior,
        },
        rows={"eval": 20, "target": 120, "train": 200},
        seconds=12.0,
        created="2026-11-30T12:00:00+00:00",
        **changes,
    )
