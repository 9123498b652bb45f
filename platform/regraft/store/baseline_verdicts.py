"""A score beside its baselines: better, worse, or not distinguishable, in the same words everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from regraft.units import finite_number

Outcome = Literal["better", "worse", "not distinguishable", "above", "below", "equal"]
"""The first three rest on an interval of the difference; the others are for a difference without one."""
_GAIN_OF = "accuracy"
"""The metric that recorded gains are differences of."""
_WORDS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
    "above": "ahead of",
    "below": "behind",
    "equal": "equal to",
}


@dataclass(frozen=True, slots=True)
class BaselineVerdict:
    """A score compared with one baseline's."""

    baseline: str
    """The baseline's key, such as `nearest_centroid`."""
    value: float
    """The baseline's score."""
    difference: float
    """The score minus the baseline's."""
    low: float | None
    high: float | None
    """The 95 % interval of the difference; None where it is not known."""
    outcome: Outcome

    @property
    def text(self) -> str:
        """The verdict as words: `worse than the baseline nearest centroid (0.948; -0.040, 95 % interval ...)`."""
        interval = "no interval is known"
        if self.low is not None and self.high is not None:
            interval = f"95 % interval {_signed(self.low)} to {_signed(self.high)}"
        name = self.baseline.replace("_", " ")
        return f"{_WORDS[self.outcome]} the baseline {name} ({self.value:.4g}; {_signed(self.difference)}, {interval})"

    def document(self) -> dict[str, Any]:
        """Return the verdict as JSON-able data."""
        return asdict(self)


def compare(
    score: Mapping[str, str],
    value: float | None,
    baselines: Mapping[str, Any],
    bounds: Mapping[str, Mapping[str, float] | None],
) -> tuple[BaselineVerdict, ...]:
    """Compare a score with every baseline that has one.

    `score` is {name, mode}; `bounds` holds the interval of the difference (`low`, `high`) from a baseline, where known.
    """
    found, reached = [], finite_number(value)
    for name, measured in baselines.items():
        other = finite_number(measured.get(score["name"]) if isinstance(measured, Mapping) else measured)
        if reached is None or other is None:
            continue
        difference, known = reached - other, bounds.get(name)
        low, high = (float(known["low"]), float(known["high"])) if known else (None, None)
        found.append(BaselineVerdict(name, other, difference, low, high, _outcome(score, difference, low, high)))
    return tuple(found)


def recorded_verdicts(meta: Mapping[str, Any]) -> tuple[BaselineVerdict, ...]:
    """Compare a version's score with the baselines that its training measured on the same rows."""
    score = meta.get("score") or {}
    if not score.get("name"):
        return ()
    value = (meta.get("metrics") or {}).get(score["name"])
    return compare(score, value, meta.get("baselines") or {}, recorded_gains(meta))


def recorded_gains(meta: Mapping[str, Any]) -> dict[str, Mapping[str, float] | None]:
    """Return the intervals of a version's gains over its baselines, where its deciding metric is theirs."""
    if (meta.get("score") or {}).get("name") != _GAIN_OF:
        return {}
    return {"nearest_centroid": meta.get("gain"), **(meta.get("gains") or {})}


def sentence(verdicts: Sequence[BaselineVerdict], score: str, subject: str = "this model") -> str:
    """Return the verdicts as one sentence; empty if there are none."""
    if not verdicts:
        return ""
    texts = [verdict.text for verdict in verdicts]
    joined = " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]
    return f"By {score.replace('_', ' ')}, {subject} is {joined}."


def _outcome(score: Mapping[str, str], difference: float, low: float | None, high: float | None) -> Outcome:
    sign = -1.0 if score.get("mode") == "min" else 1.0
    if low is None or high is None:
        return "equal" if not difference else "above" if sign * difference > 0 else "below"
    if low <= 0 <= high:
        return "not distinguishable"
    return "better" if sign * difference > 0 else "worse"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 or not value else f"{value:+.2g}"
