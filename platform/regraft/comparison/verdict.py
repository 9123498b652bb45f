"""The verdict of a comparison: paired differences from every control, and whether the base helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from regraft.comparison.controls import RANDOM_WEIGHTS
from regraft.contracts import Record, Score
from regraft.report.intervals import Bootstrap, Metrics
from regraft.report.score_draws import ScoreDraws, draw_scores
from regraft.store.baseline_verdicts import BaselineVerdict, compare
from regraft.store.comparisons import control_name

NOT_BEATEN = frozenset({"worse", "not distinguishable", "below", "equal"})
OPTIONS = Bootstrap(resamples=1000, budget_s=30.0)


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model's records of the compared rows, in their order."""

    name: str
    metrics_of: Metrics
    records: Sequence[Record]
    knows_base: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a reader may want to know of it: run, method, steps, seconds, version."""


def verdict(
    model: MeasuredModel,
    controls: Sequence[MeasuredModel],
    score: Score,
    left_out: Sequence[tuple[str, str]] = (),
    *,
    side: Literal["test", "eval"] = "eval",
) -> dict[str, Any]:
    """Return the document of a comparison, as a version's metadata hold it.

    `side` names the rows: test rows chose nothing, evaluation rows chose the checkpoints, and in a search the winner.
    Each interval holds by itself: a warning is left out only where every control without the base is beaten, and such a
    conjunction needs no correction (Berger, 1982).
    """
    everyone = [model, *controls]
    drawn = draw_scores([(one.metrics_of, one.records) for one in everyone], score.name, OPTIONS)
    verdicts = _verdicts(drawn, controls, score)
    document: dict[str, Any] = {
        "score": {"name": score.name, "mode": score.mode},
        "value": float(drawn.values[0]),
        "interval": _ends(drawn.interval(0)),
        "rows": len(model.records),
        "side": side,
        "resamples": len(drawn.draws),
        "note": drawn.note,
        "controls": [
            {
                **_control(found),
                "knows_base": one.knows_base,
                "interval": _ends(drawn.interval(at)),
                "metrics": dict(one.metrics_of(one.records)),
                **one.facts,
            }
            for at, (one, found) in enumerate(zip(controls, verdicts, strict=True), 1)
        ],
        "left_out": [{"name": name, "why": why} for name, why in left_out],
    }
    return {**document, **conclusion(document, verdicts, model.knows_base)}


def conclusion(document: Mapping[str, Any], verdicts: Sequence[BaselineVerdict], knows_base: bool) -> dict[str, Any]:
    """Return whether transfer is negative, the warning, and the verdicts as sentences.

    It is not known (None) of a model that itself began with random weights, and where only a dull baseline is beaten:
    the same architecture may do so from random weights.
    """
    score = str(document["score"]["name"])
    known = {one["name"]: bool(one["knows_base"]) for one in document["controls"]}
    without = [one for one in verdicts if not known[one.baseline]]
    lost = [one for one in without if one.outcome in NOT_BEATEN]
    shown = bool(lost) or any(one.baseline == RANDOM_WEIGHTS for one in without)
    return {
        "negative_transfer": bool(lost) if shown and knows_base else None,
        "warning": _warning(lost, score) if knows_base else _nothing_learned(lost, score),
        "sentence": _sentence(verdicts, score),
        "adaptation": _adaptation([one for one in verdicts if known[one.baseline]], score),
    }


def _verdicts(drawn: ScoreDraws, controls: Sequence[MeasuredModel], score: Score) -> tuple[BaselineVerdict, ...]:
    values = {one.name: float(drawn.values[at]) for at, one in enumerate(controls, 1)}
    bounds = {one.name: _ends(drawn.difference(0, at)) for at, one in enumerate(controls, 1)}
    return compare({"name": score.name, "mode": score.mode}, float(drawn.values[0]), values, bounds)


def _control(found: BaselineVerdict) -> dict[str, Any]:
    document = found.document()
    return {"name": document.pop("baseline"), **document}


def _ends(bounds: tuple[float, float] | None) -> dict[str, float] | None:
    return None if bounds is None else {"low": bounds[0], "high": bounds[1]}


def _nothing_learned(lost: Sequence[BaselineVerdict], score: str) -> str:
    """Return the warning about a model that began with random weights, and beats no simpler control."""
    if not lost:
        return ""
    return (
        f"This model began with random weights, so nothing is said of a base. By {score.replace('_', ' ')}, it is "
        f"{'; '.join(map(_text, lost))}. Begin with a base that has learned, add rows, or use what is as good and "
        "costs less."
    )


def _warning(lost: Sequence[BaselineVerdict], score: str) -> str:
    if not lost:
        return ""
    beaten_by = "; ".join(map(_text, lost))
    return (
        f"Negative transfer: what the base has learned does not show to help. By {score.replace('_', ' ')}, this model "
        f"is {beaten_by}, without the base. Try another base, more rows, or use what is as good and costs less."
    )


def _sentence(verdicts: Sequence[BaselineVerdict], score: str) -> str:
    if not verdicts:
        return ""
    return f"By {score.replace('_', ' ')}, this model is {', '.join(_text(one) for one in verdicts)}."


def _adaptation(knowing: Sequence[BaselineVerdict], score: str) -> str:
    """Return what to do where a control that knows the base is at least as good."""
    for one in knowing:
        if one.outcome in ("worse", "below"):
            return f"The control {control_name(one.baseline)} is better by {score.replace('_', ' ')}: prefer it."
    return ""


def _text(one: BaselineVerdict) -> str:
    """Return `better than random weights (0.812; +0.100, 95 % interval +0.050 to +0.150)`."""
    return one.text.replace("the baseline ", "")
