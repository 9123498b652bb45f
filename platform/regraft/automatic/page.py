"""An automatic run as one self-contained HTML page: the result, and every decision that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.automatic.outcome import AutoOutcome
from regraft.report import html
from regraft.report.numbers import format_number, plugin_text, signed
from regraft.store.comparisons import comparison_texts, control_name
from regraft.units import counted, seconds_text
from regraft.version import VERSION

_TEMPLATES = Path(__file__).parent / "templates"


def auto_page(outcome: AutoOutcome, spec: str) -> str:
    """Render the page of an automatic run; `spec` is the text of the spec that repeats it."""
    test = outcome.test or {}
    bounds = (test.get("intervals") or {}).get(outcome.score)
    value = (test.get("metrics") or {}).get(outcome.score)
    return (
        html.environment(_TEMPLATES)
        .get_template("auto.html.j2")
        .render(
            a=outcome,
            css=html.style(),
            release=VERSION,
            method=plugin_text(outcome.method),
            value=value if value is not None else outcome.metrics.get(outcome.score),
            bounds=bounds,
            measured=int(test.get("rows", 0)),
            controls=_controls(outcome),
            sentences=[
                text for text in (*comparison_texts(outcome.comparison), outcome.verdicts, outcome.advice) if text
            ],
            bases=[_base(one) for one in outcome.bases],
            trials=[_trial(one) for one in outcome.trials],
            shares=_shares(outcome.budget),
            facts=_facts(outcome),
            spec=spec,
        )
    )


def _controls(outcome: AutoOutcome) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the rows that were measured, in words, with the model and what it is compared with on them.

    Each has its score, and the difference with its interval. Figures on different rows are never in one table.
    """
    comparison = outcome.comparison or {}
    rows = [("this model", format_number(outcome.metrics.get(outcome.score)), "")]
    tables = [("on the evaluation rows, which also chose", rows)]
    if comparison.get("side") == "test":
        compared = [("this model", format_number(comparison.get("value")), "")]
        tables.insert(0, (f"on {counted(int(comparison.get('rows') or 0), 'test row')}, which chose nothing", compared))
    for one in comparison.get("controls", ()):
        tables[0][1].append((control_name(one["name"]), format_number(one.get("value")), _difference(one)))
    for name, measured in outcome.baselines.items():
        value = measured.get(outcome.score) if isinstance(measured, Mapping) else measured
        rows.append((name.replace("_", " "), format_number(value), ""))
    return tables


def _difference(one: Mapping[str, Any]) -> str:
    """Return the model's score less a control's, with its interval; empty where it is not known."""
    if one.get("difference") is None:
        return ""
    low, high = one.get("low"), one.get("high")
    bounds = "" if low is None or high is None else f" ({signed(low)} to {signed(high)})"
    return f"{signed(one['difference'])}{bounds}"


def _base(one: Mapping[str, Any]) -> dict[str, Any]:
    size = f"{one['parameters'] / 1e6:.1f} M" if one["parameters"] else ""
    return {**one, "size": size}


def _trial(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's cells."""
    settings = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in one["settings"].items())
    return {
        "method": one["method"],
        "settings": settings,
        "value": format_number(one["value"]),
        "seconds": seconds_text(one["seconds"]),
        "note": "" if one["whole"] else "ended early, with the time",
        "chosen": one["chosen"],
    }


def _shares(budget: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return what of the budget was spent on what."""
    names = {"choice": "looking, and choosing a base", "search": "searching", "end": "training the winner again"}
    return [(text, seconds_text(budget[name])) for name, text in names.items() if name in budget]


def _facts(outcome: AutoOutcome) -> list[tuple[str, str, bool]]:
    """Return name and value of each fact, and whether the value is shown as code."""
    sides = ", ".join(f"{count:,} {side}" for side, count in outcome.rows.items())
    return [
        ("model", f"{outcome.model}@{outcome.version}", True),
        ("base", outcome.base, True),
        ("task", outcome.task, True),
        ("rows", sides, False),
        ("automatic run", outcome.run, True),
        ("store", outcome.store, True),
    ]
