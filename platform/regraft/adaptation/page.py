"""An adaptation as one self-contained HTML page: the shift, the candidates, the choice and its risk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.adaptation.outcome import AdaptOutcome
from regraft.adaptation.shift import ShiftKind
from regraft.report import html
from regraft.report.numbers import format_number, signed
from regraft.units import seconds_text
from regraft.version import VERSION

_TEMPLATES = Path(__file__).parent / "templates"
_ABSENT = "–"
_SIDES = ("train", "eval", "test", "target")
_KINDS = {
    ShiftKind.UNKNOWN: "There are too few rows to see a shift",
    ShiftKind.NONE: "No shift is seen",
    ShiftKind.LABEL: "The classes' shares moved",
    ShiftKind.COVARIATE: "The features moved",
}
_VALIDATORS = {
    "im": "information maximisation: sure about each row, undecided about all together",
    "bnm": "batch nuclear norm: sure answers that spread over the classes",
    "snd": "soft neighbourhood density: rows of a class lie close together; highest of all for a model that collapsed",
    "dev": "deep embedded validation: the risk on source rows that look like target rows",
}
"""What the validators say; others are shown by name alone."""


def adapt_page(outcome: AdaptOutcome) -> str:
    """Render the page of an adaptation."""
    names = list(dict.fromkeys(name for one in outcome.candidates for name in one["validators"]))
    return (
        html.environment(_TEMPLATES)
        .get_template("adapt.html.j2")
        .render(
            a=outcome,
            css=html.style(),
            release=VERSION,
            kind=_KINDS[ShiftKind(outcome.diagnosis["kind"])],
            tests=_tests(outcome.diagnosis),
            prior=_prior(outcome.diagnosis),
            names=names,
            explained=[(name, _VALIDATORS[name]) for name in names if name in _VALIDATORS],
            rows=[_row(one, names) for one in outcome.candidates],
            check=outcome.check,
            facts=_facts(outcome),
        )
    )


def _tests(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, figure and meaning of each test."""
    classifier, mmd = found.get("classifier"), found.get("mean_discrepancy")
    tests = []
    if classifier:
        meaning = "AUC of a classifier that tells target rows from source rows; 0.5 is chance"
        tests.append(("classifier", _statistic(classifier), meaning))
    if found.get("weighted_auc") is not None:
        meaning = "the same with source rows weighted by the estimated shares of the classes"
        tests.append(("weighted classifier", format_number(found["weighted_auc"]), meaning))
    if mmd:
        tests.append(("MMD", _statistic(mmd), "squared distance of the features' distributions; 0 is none"))
    return tests


def _statistic(test: Mapping[str, float]) -> str:
    return f"{format_number(test['statistic'])} (p = {format_number(test['p'])})"


def _prior(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the shares of the classes as cells, where they were estimated."""
    prior = found.get("prior")
    if not prior:
        return None
    rows = [
        (
            one["class"],
            format_number(one["source"]),
            format_number(one["target"]),
            f"{format_number(one['low'])} to {format_number(one['high'])}",
        )
        for one in prior["classes"]
    ]
    return {"rows": rows, "distance": format_number(prior["distance"]), "moved": prior["moved"]}


def _row(one: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Return a candidate's cells; a figure that cannot be computed is absent, not 0."""
    figures = [one["source_score"], one["effective_classes"], *(one["validators"].get(name) for name in names)]
    return {
        "name": one["name"],
        "chosen": one["chosen"],
        "figures": [_ABSENT if value is None else format_number(value) for value in figures],
        "verdict": one["verdict"],
        "gains": [
            f"{name}: {signed(found['difference'])} ({signed(found['low'])} to {signed(found['high'])})"
            for name, found in one["intervals"].items()
            if found
        ],
        "seconds": "" if one["seconds"] is None else seconds_text(one["seconds"]),
    }


def _facts(outcome: AdaptOutcome) -> list[tuple[str, str, bool]]:
    """Return name and value of each fact, and whether the value is shown as code."""
    runs = ", ".join(str(one["run"]) for one in outcome.candidates if one["run"])
    facts = [
        ("source-only model", outcome.source, True),
        ("chosen version", f"{outcome.model}@{outcome.version}", True),
        ("rows", ", ".join(f"{outcome.rows[side]:,} {side}" for side in _SIDES if side in outcome.rows), False),
        ("adaptation", outcome.run, True),
        ("runs of candidates", runs, True),
        ("store", outcome.store, True),
        ("time", seconds_text(outcome.seconds), False),
    ]
    return [fact for fact in facts if fact[1]]
