"""A comparison as one self-contained HTML page: the score of every model, and the differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.report import charts, html
from regraft.report.numbers import format_number, signed
from regraft.store.comparisons import comparison_texts, control_name
from regraft.units import seconds_text
from regraft.version import VERSION

_TEMPLATES = Path(__file__).parent / "templates"
_WHAT = {
    "majority": "always the most frequent label of the training rows",
    "mean": "always the mean of the training rows",
    "words": "TF-IDF of words and pairs of words, with a linear model",
    "colours": "histogram of colours, with a linear model",
    "random_weights": "the same architecture, all weights trained from random ones",
    "frozen_probe": "a head on the base as it is",
    "last_version": "the version of this model before",
}
"""What the controls are; others are shown by name alone."""


def comparison_page(version: str, document: Mapping[str, Any]) -> str:
    """Render the page of a comparison."""
    controls = document["controls"]
    name, _, number = version.rpartition("@")
    return (
        html.environment(_TEMPLATES)
        .get_template("comparison.html.j2")
        .render(
            c=document,
            model=name,
            number=number,
            tested=document.get("side") == "test",
            css=html.style(),
            release=VERSION,
            texts=comparison_texts(document),
            scores=charts.interval_view(
                [(name, document["value"], _bounds(document.get("interval")))]
                + [(control_name(one["name"]), one["value"], _bounds(one.get("interval"))) for one in controls]
            ),
            differences=charts.interval_view(
                [(control_name(one["name"]), one["difference"], _bounds(one)) for one in controls], zero=True
            ),
            rows=[_row(one) for one in controls],
        )
    )


def _bounds(ends: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if not ends or ends.get("low") is None or ends.get("high") is None:
        return None
    return float(ends["low"]), float(ends["high"])


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a control."""
    bounds = _bounds(one)
    cost = [
        str(one.get("method") or ""),
        f"{one['steps']:,} steps" if one.get("steps") else "",
        seconds_text(float(one["seconds"])) if one.get("seconds") else "",
    ]
    return {
        "name": control_name(one["name"]),
        "what": _WHAT.get(one["name"], ""),
        "value": format_number(one["value"]),
        "difference": signed(one["difference"]),
        "interval": f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else "not known",
        "outcome": f"this model is {one['outcome']}",
        "cost": ", ".join(part for part in cost if part),
        "run": one.get("run") or one.get("version") or "",
    }
