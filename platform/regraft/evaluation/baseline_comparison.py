"""The score of an evaluation beside the baselines that training recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from regraft.report.intervals import Intervals
from regraft.store.baseline_verdicts import BaselineVerdict, compare, recorded_gains, sentence

_NORMAL = 1.96
"""Half the width of a 95 % interval, in standard errors."""


def baseline_verdicts_here(
    meta: Mapping[str, Any], score: Mapping[str, str], value: float, intervals: Intervals, *, same_rows: bool
) -> tuple[BaselineVerdict, ...]:
    """Compare a score with the recorded baselines.

    On the evaluation rows of training (`same_rows`), intervals are the recorded ones, which pair the rows. On other
    rows the two scores are independent: the interval of their difference combines those of both.
    """
    baselines = meta.get("baselines") or {}
    known = recorded_gains(meta) if same_rows else {}
    here = intervals.bounds.get(score["name"])
    rows = ((meta.get("lineage") or {}).get("data") or {}).get("rows", {}).get("eval", 0)
    bounds: dict[str, Mapping[str, float] | None] = {}
    for name, measured in baselines.items():
        other = measured.get(score["name"]) if isinstance(measured, Mapping) else measured
        if known.get(name):
            bounds[name] = known[name]
        elif here and isinstance(other, int | float):
            bounds[name] = _independent(value, here, float(other), rows if score["mode"] == "max" else 0)
    return compare(score, value, baselines, bounds)


def baseline_text(verdicts: tuple[BaselineVerdict, ...], score: str, *, same_rows: bool) -> str:
    """Return the verdicts as sentences, with the rows that the baselines were measured on."""
    text = sentence(verdicts, score)
    if not text or same_rows:
        return text
    return f"{text} The baselines were measured at training, on its own evaluation rows."


def _independent(value: float, here: tuple[float, float], other: float, rows: int) -> dict[str, float]:
    """Return the interval of the difference of two scores on different rows.

    The baseline's uncertainty is that of a share of `rows`, an upper bound for any mean of values between 0 and 1; it
    counts as 0 for scores of other ranges.
    """
    share = 0 <= other <= 1 and rows > 0
    error = _NORMAL * math.sqrt(other * (1 - other) / rows) if share else 0.0
    low, high = here
    return {
        "low": value - other - math.hypot(max(0.0, value - low), error),
        "high": value - other + math.hypot(max(0.0, high - value), error),
    }
