"""An evaluation as one self-contained HTML page: no scripts, no requests, all images embedded.

Labels, texts and file names are untrusted input. The templates escape them, and the page's Content-Security-Policy
forbids to run or fetch anything should one slip through.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.contracts.findings import Findings
from regraft.evaluation.worst_rows import WorstRows
from regraft.report import charts, html, numbers
from regraft.report.numbers import format_number
from regraft.units import seconds_text

_TEMPLATES = Path(__file__).parent / "templates"


def page(document: Mapping[str, Any], findings: Findings, shown: WorstRows) -> str:
    """Render the page of an evaluation; `document` is the content of evaluation.json."""
    score = document["score"]["name"]
    columns, rows = _metrics(document)
    skipped = document["data"]["skipped"]
    shapes = {part.shape for item in shown.row_views for part in item.parts}
    return (
        html.environment(_TEMPLATES)
        .get_template("report.html.j2")
        .render(
            e=document,
            css=html.style(),
            release=document["regraft"],
            place=document["data"]["path"].rstrip("/").rsplit("/", 1)[-1] or document["data"]["path"],
            main=document["intervals"].get(score),
            standing=_score_chart(document),
            beside=document["beside_baselines"]["sentence"],
            overlap=_sentence(document["overlap"]["sentence"]),
            columns=columns,
            metrics=rows,
            interval_note=_interval_note(document["bootstrap"], document),
            comparison=_comparison(document),
            comparison_note=_comparison_note(document),
            findings=findings,
            tables=[numbers.table_view(table) for table in findings.tables],
            matrices=[numbers.matrix_view(matrix) for matrix in findings.matrices],
            curves=[charts.curve_view(curve) for curve in findings.curves],
            row_views=shown.row_views,
            tagged="entities" in shapes,
            several="entities" in shapes
            or any(getattr(part, "several", False) for item in shown.row_views for part in item.parts),
            keyed=bool({"entities", "boxes", "verdict"} & shapes),
            worst_title=_worst_title(shown),
            worst_note=_worst_note(shown, document["data"]["rows"]),
            sections=_sections(document, findings, shown),
            facts=_facts(document),
            skipped=skipped.get("count", 0),
            skipped_rows=skipped.get("rows", ()),
        )
    )


def _names(document: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics, the score first."""
    score = document["score"]["name"]
    return sorted(document["metrics"], key=lambda name: name != score)


def _recorded(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics recorded at training by column title: those of the version, then those of each baseline."""
    score, recorded = document["score"]["name"], document["recorded"]
    columns = {"at training": recorded["metrics"]} if recorded["metrics"] else {}
    for name, value in recorded["baselines"].items():
        columns[name.replace("_", " ")] = value if isinstance(value, Mapping) else {score: value}
    return columns


def _score_chart(document: Mapping[str, Any]) -> charts.Standings | None:
    score = document["score"]["name"]
    value = document["metrics"][score]
    if value is None:
        return None
    others = [(name, values[score]) for name, values in _recorded(document).items() if values.get(score) is not None]
    if other := document.get("against"):
        others.insert(0, (f"{other['model']}@{other['version']}", other["metrics"][score]))
    bounds = document["intervals"].get(score)
    ends = (bounds["low"], bounds["high"]) if bounds else None
    return charts.standings(value, ends, others, "this evaluation") if others or ends else None


def _metrics(document: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    others, score = _recorded(document), document["score"]["name"]
    rows = [
        {
            "name": name,
            "chosen": name == score,
            "cells": [
                format_number(document["metrics"][name]),
                _interval_text(document["intervals"].get(name)),
                *(format_number(values[name]) if values.get(name) is not None else "" for values in others.values()),
            ],
        }
        for name in _names(document)
    ]
    return ["metric", "here", "95 % interval", *others], rows


def _interval_text(bounds: Mapping[str, float] | None) -> str:
    return f"{format_number(bounds['low'])} to {format_number(bounds['high'])}" if bounds else ""


def _interval_note(bootstrap: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not document["intervals"]:
        return f"No intervals. {bootstrap['note']}." if bootstrap["note"] else ""
    method = (
        f"Intervals are bootstrap percentile intervals over {bootstrap['resamples']:,} resamples of the rows "
        "(Efron and Tibshirani, 1993): the uncertainty of a metric because these rows are a sample. They do not cover "
        "other data"
    )
    training = "; metrics at training were measured on training's own evaluation rows" if _recorded(document) else ""
    fewer = f" {bootstrap['note']}." if bootstrap["note"] else ""
    notes = "".join(f" {note}." for note in document["notes"] if note != document["overlap"]["sentence"])
    return f"{method}{training}.{fewer}{notes}"


def _sentence(text: str) -> str:
    return f"{text}." if text else ""


def _comparison(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a table row for each metric that both models have; none without another model."""
    other = document.get("against")
    if not other:
        return []
    return [
        {
            "name": name,
            "chosen": name == document["score"]["name"],
            "cells": [
                format_number(document["metrics"][name]),
                format_number(other["metrics"][name]),
                numbers.signed(other["difference"][name]),
                _difference_text(other["intervals"].get(name)),
            ],
        }
        for name in _names(document)
        if name in other["metrics"]
    ]


def _difference_text(bounds: Mapping[str, float] | None) -> str:
    return f"{numbers.signed(bounds['low'])} to {numbers.signed(bounds['high'])}" if bounds else ""


def _comparison_note(document: Mapping[str, Any]) -> str:
    other = document.get("against")
    if not other:
        return ""
    score = document["score"]["name"]
    bounds = other["intervals"].get(score)
    text = "Differences are this model's metric minus the other's"
    if not bounds:
        return f"{text}. {other['note']}{'.' if other['note'] else ''}".strip()
    conclusion = _conclusion(bounds, document["score"]["mode"])
    text += f", with paired bootstrap intervals: both models on the same {other['resamples']:,} resamples"
    return f"{text}. By {score.replace('_', ' ')}, {conclusion} on these rows."


def _conclusion(bounds: Mapping[str, float], mode: str) -> str:
    if bounds["low"] <= 0 <= bounds["high"]:
        return "the difference is not significant"
    better = bounds["low"] > 0 if mode == "max" else bounds["high"] < 0
    return "this model is better" if better else "this model is worse"


def _worst_title(shown: WorstRows) -> str:
    if shown.wrong == 0:
        return "Least certain rows"
    return "Worst mistakes" if shown.wrong else "Worst rows"


def _worst_note(shown: WorstRows, rows: int) -> str:
    number = len(shown.row_views)
    if shown.wrong == 0:
        text = f"All {rows:,} rows were answered correctly; these are the {number} with the largest error."
    elif shown.wrong is not None:
        text = f"{shown.wrong:,} of {rows:,} rows were answered wrongly; the {number} with the largest error are shown."
    else:
        text = f"The {number} rows of {rows:,} with the largest error."
    left_out = f" {shown.left_out} pictures are left out to keep this page small." if shown.left_out else ""
    return f"{text} Rows are counted from 0.{left_out}"


def _sections(document: Mapping[str, Any], findings: Findings, shown: WorstRows) -> list[tuple[str, str]]:
    """Return id and title of the page's optional sections that are present, for its links."""
    sections = (
        ("against", "Comparison", bool(document.get("against"))),
        ("tables", "In detail", bool(findings.tables)),
        ("confusion", "Confusion", bool(findings.matrices)),
        ("curves", "Curves", bool(findings.curves)),
        ("worst", _worst_title(shown), bool(shown.row_views)),
    )
    return [(name, title) for name, title, present in sections if present]


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return name and value of each fact, and whether the value is shown as code, to be copied."""
    data, labels = document["data"], document["labels"]
    shown = ", ".join(labels[:30]) + (f" and {len(labels) - 30} more" if len(labels) > 30 else "")
    columns = ", ".join(f"{name} is {in_file}" for name, in_file in data["columns"].items() if name != in_file)
    facts = [
        ("model", f"{document['model']}@{document['version']}", True),
        ("version id", document["id"], True),
        ("delta", f"sha256 {document['delta_sha256']}" if document["delta_sha256"] else "", True),
        ("base", document["base"]["reference"], True),
        ("base hash", document["base"]["hash"], True),
        ("task", numbers.plugin_text(document["task"]), False),
        ("method", numbers.plugin_text(document["method"]), False),
        ("labels", shown, False),
        ("data", data["path"], True),
        ("data fingerprint", data["fingerprint"], True),
        ("columns", columns, False),
        ("rows", f"{data['rows']:,}", False),
        ("training rows among them", _count_or_unknown(document["overlap"]["train"]), False),
        ("left out", f"{data['skipped']['count']:,} rows that cannot be used" if data["skipped"] else "", False),
        ("device", document["device"], False),
        ("time", seconds_text(document["seconds"]), False),
    ]
    return [(name, str(value), code) for name, value, code in facts if value]


def _count_or_unknown(count: int | None) -> str:
    return "not known" if count is None else f"{count:,}"
