"""What a data curve says: the score by labels, what twice as many would bring, and the labels that transfer saves."""

from __future__ import annotations

from typing import Any

import numpy as np

from regraft.selection.learning_curve import MeasuredCurve, rows_to_reach
from regraft.selection.learning_law import CurvePrediction, fit_law
from regraft.units import counted

POINTS = 24
"""Points of the law that are drawn."""


def curve_findings(adapted: MeasuredCurve, random: MeasuredCurve | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Return the document of a base's curve, beside that of random weights on the same rows.

    Keys: `points` (for each share: share, rows, adapted, spread, and random where it was measured), `law` (rows, value,
    low, high, up to twice the labels), `doubled` (the gain by twice the labels: rows, value, low, high), `saved` (rows
    that reach what random weights reach with all, and how many that saves; None without random weights or if the base
    does not reach it) and `sentences`.
    """
    law = fit_law(adapted, np.random.default_rng(seed))
    whole = float(adapted.rows[-1])
    doubled = law.gain(whole, 2 * whole)
    places = np.geomspace(adapted.rows[0], 2 * whole, POINTS)
    saved = None if random is None else _saved(adapted, random)
    return {
        "points": _points(adapted, random),
        "law": [_interval(float(rows), law.at(float(rows))) for rows in places],
        "doubled": _interval(2 * whole, doubled),
        "saved": saved,
        "sentences": [_gain_text(adapted, doubled), *([] if random is None else [_saved_text(adapted, random, saved)])],
    }


def _points(adapted: MeasuredCurve, random: MeasuredCurve | None) -> list[dict[str, float]]:
    found = []
    for at, share in enumerate(adapted.shares):
        line = {"share": float(share), "rows": float(adapted.rows[at]), "adapted": float(adapted.values[at])}
        line["spread"] = float(adapted.spreads[at])
        if random is not None:
            line["random"] = float(random.values[at])
        found.append(line)
    return found


def _interval(rows: float, found: CurvePrediction) -> dict[str, float]:
    return {"rows": rows, "value": found.value, "low": found.low, "high": found.high}


def _saved(adapted: MeasuredCurve, random: MeasuredCurve) -> dict[str, float] | None:
    """Return how many rows reach the best that random weights reach, and how many fewer that is."""
    rows = rows_to_reach(adapted, float(random.values.max()))
    if rows is None:
        return None
    most = float(random.rows[int(random.values.argmax())])
    return {"rows": rows, "of": most, "saved": max(0.0, most - rows)}


def _gain_text(adapted: MeasuredCurve, doubled: CurvePrediction) -> str:
    whole = round(adapted.rows[-1])
    return (
        f"twice the labels ({whole:,} to {2 * whole:,}) would bring {doubled.value:+.3f} "
        f"({doubled.low:+.3f} to {doubled.high:+.3f}) to {adapted.values[-1]:.3f}"
    )


def _saved_text(adapted: MeasuredCurve, random: MeasuredCurve, saved: dict[str, float] | None) -> str:
    best = f"{random.values.max():.3f}"
    if saved is None or saved["saved"] < 1:
        return f"random weights reach {best}, which this base reaches with no fewer labels: transfer saves none"
    rows = round(saved["rows"])
    at_most = "at most " if saved["rows"] <= adapted.rows[0] else ""
    return (
        f"with {at_most}{counted(rows, 'label')} this base reaches the {best} that random weights reach with "
        f"{round(saved['of']):,}: transfer saves {'at least ' if at_most else ''}{round(saved['of']) - rows:,}"
    )
