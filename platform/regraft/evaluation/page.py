"""An evaluation as one HTML page that needs nothing else: no script, no request, every picture within it.

Labels, texts and file names come from whoever made the data: all of it is escaped by the templates, and the page's own
Content-Security-Policy refuses to run or fetch anything, should one slip through.
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
    """The page of an evaluation: `document` is what evaluation.json holds."""
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
            standing=_standing(document),
            columns=columns,
            metrics=rows,
            interval_note=_interval_note(document["bootstrap"], document),
            rivals=_rivals(document),
            rival_note=_rival_note(document),
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
            parts=_sections(document, findings, shown),
            facts=_facts(document),
            skipped=skipped.get("count", 0),
            skipped_rows=skipped.get("rows", ()),
        )
    )


def _names(document: Mapping[str, Any]) -> list[str]:
    """The metrics, the deciding one first."""
    score = document["score"]["name"]
    return sorted(document["metrics"], key=lambda name: name != score)


def _recorded(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured at training: the version itself, then each baseline, by what a reader calls them."""
    score, recorded = document["score"]["name"], document["recorded"]
    found = {"at training": recorded["metrics"]} if recorded["metrics"] else {}
    for name, value in recorded["baselines"].items():
        found[name.replace("_", " ")] = value if isinstance(value, Mapping) else {score: value}
    return found


def _standing(document: Mapping[str, Any]) -> charts.Standings | None:
    score = document["score"]["name"]
    mine = document["metrics"][score]
    if mine is None:
        return None
    others = [(name, values[score]) for name, values in _recorded(document).items() if values.get(score) is not None]
    if rival := document.get("against"):
        others.insert(0, (f"{rival['model']}@{rival['version']}", rival["metrics"][score]))
    bounds = document["intervals"].get(score)
    ends = (bounds["low"], bounds["high"]) if bounds else None
    return charts.standings(mine, ends, others, "this evaluation") if others or ends else None


def _metrics(document: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    others, score = _recorded(document), document["score"]["name"]
    rows = [
        {
            "name": name,
            "chosen": name == score,
            "cells": [
                format_number(document["metrics"][name]),
                _told(document["intervals"].get(name)),
                *(format_number(values[name]) if values.get(name) is not None else "" for values in others.values()),
            ],
        }
        for name in _names(document)
    ]
    return ["metric", "here", "95 % interval", *others], rows


def _told(bounds: Mapping[str, float] | None) -> str:
    return f"{format_number(bounds['low'])} to {format_number(bounds['high'])}" if bounds else ""


def _interval_note(bootstrap: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if not document["intervals"]:
        return f"No intervals. {bootstrap['note']}." if bootstrap["note"] else ""
    told = (
        f"Intervals are bootstrap percentile intervals over {bootstrap['resamples']:,} resamples of the rows "
        "(Efron and Tibshirani, 1993): how far the figure may be off, these rows being a sample. They know nothing of "
        "other data"
    )
    beside = "; figures at training were measured on training's own evaluation rows" if _recorded(document) else ""
    fewer = f" {bootstrap['note']}." if bootstrap["note"] else ""
    notes = "".join(f" {note}." for note in document["notes"])
    return f"{told}{beside}.{fewer}{notes}"


def _rivals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    rival = document.get("against")
    if not rival:
        return []
    return [
        {
            "name": name,
            "chosen": name == document["score"]["name"],
            "cells": [
                format_number(document["metrics"][name]),
                format_number(rival["metrics"][name]),
                numbers.signed(rival["difference"][name]),
                _apart(rival["intervals"].get(name)),
            ],
        }
        for name in _names(document)
        if name in rival["metrics"]
    ]


def _apart(bounds: Mapping[str, float] | None) -> str:
    return f"{numbers.signed(bounds['low'])} to {numbers.signed(bounds['high'])}" if bounds else ""


def _rival_note(document: Mapping[str, Any]) -> str:
    rival = document.get("against")
    if not rival:
        return ""
    score = document["score"]["name"]
    bounds = rival["intervals"].get(score)
    told = "Differences are this model's figure less the other's"
    if not bounds:
        return f"{told}. {rival['note']}{'.' if rival['note'] else ''}".strip()
    better = bounds["low"] > 0 if document["score"]["mode"] == "max" else bounds["high"] < 0
    verdict = "this model is better" if better else "this model is worse"
    if bounds["low"] <= 0 <= bounds["high"]:
        verdict = "the two cannot be told apart"
    told += f", with paired bootstrap intervals: both models on the same {rival['resamples']:,} resamples"
    return f"{told}. By {score.replace('_', ' ')}, {verdict} on these rows."


def _worst_title(shown: WorstRows) -> str:
    if shown.wrong == 0:
        return "Right, with the least certainty"
    return "Worst mistakes" if shown.wrong else "Worst rows"


def _worst_note(shown: WorstRows, rows: int) -> str:
    number = len(shown.row_views)
    if shown.wrong == 0:
        told = f"No row of {rows:,} was answered wrongly; these are the {number} nearest to it."
    elif shown.wrong is not None:
        told = f"{shown.wrong:,} of {rows:,} rows were answered wrongly; the {number} with the largest error are shown."
    else:
        told = f"The {number} rows of {rows:,} with the largest error."
    left = f" {shown.left_out} pictures are left out to keep this page small." if shown.left_out else ""
    return f"{told} Rows are counted from 0.{left}"


def _sections(document: Mapping[str, Any], findings: Findings, shown: WorstRows) -> list[tuple[str, str]]:
    """The page's other parts that there are, for its links."""
    there = (
        ("against", "Comparison", bool(document.get("against"))),
        ("tables", "In detail", bool(findings.tables)),
        ("confusion", "Confusion", bool(findings.matrices)),
        ("curves", "Curves", bool(findings.curves)),
        ("worst", _worst_title(shown), bool(shown.row_views)),
    )
    return [(name, title) for name, title, is_there in there if is_there]


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Name, value, and whether it is something to copy."""
    data, labels = document["data"], document["labels"]
    shown = ", ".join(labels[:30]) + (f" and {len(labels) - 30} more" if len(labels) > 30 else "")
    columns = ", ".join(f"{name} is {told}" for name, told in data["columns"].items() if name != told)
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
        ("left out", f"{data['skipped']['count']:,} rows that cannot be used" if data["skipped"] else "", False),
        ("device", document["device"], False),
        ("time", seconds_text(document["seconds"]), False),
    ]
    return [(name, str(value), code) for name, value, code in facts if value]
