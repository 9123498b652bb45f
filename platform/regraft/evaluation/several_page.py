"""The evaluation of several models as one self-contained HTML page: scores and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.report import charts, html, numbers
from regraft.report.numbers import format_number, signed
from regraft.units import bytes_text

_TEMPLATES = Path(__file__).parent / "templates"


def several_page(document: Mapping[str, Any]) -> str:
    """Render the page; `document` is the content of evaluation.json."""
    score, models = document["score"]["name"], document["models"]
    names = [name_of(one) for one in models]
    shown = [(name, one["metrics"][score], _bounds(one["interval"])) for name, one in zip(names, models, strict=True)]
    differences = [(one["model"], one["difference"], _bounds(one)) for one in document["differences"]]
    return (
        html.environment(_TEMPLATES)
        .get_template("several.html.j2")
        .render(
            e=document,
            css=html.style(),
            release=document["regraft"],
            place=document["data"]["path"].rstrip("/").rsplit("/", 1)[-1] or document["data"]["path"],
            first=names[0],
            scores=charts.interval_view([one for one in shown if one[1] is not None]),
            differences=charts.interval_view([one for one in differences if one[1] is not None], zero=True),
            columns=["metric", *names],
            metrics=_metrics(document),
            verdicts=[_verdict(one) for one in document["differences"]],
            facts=[_facts(one) for one in models],
        )
    )


def name_of(model: Mapping[str, Any]) -> str:
    """Return `name@version` of an entry of the document."""
    return f"{model['model']}@{model['version']}"


def _bounds(ends: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if not ends or ends["low"] is None or ends["high"] is None:
        return None
    return float(ends["low"]), float(ends["high"])


def _metrics(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    score, models = document["score"]["name"], document["models"]
    names = sorted(models[0]["metrics"], key=lambda name: name != score)
    return [
        {"name": name, "chosen": name == score, "cells": [_cell(one["metrics"].get(name)) for one in models]}
        for name in names
    ]


def _cell(value: float | None) -> str:
    return "–" if value is None else format_number(value)


def _verdict(one: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a difference."""
    bounds, alone = _bounds(one), _bounds(one["alone"])
    return {
        "name": str(one["model"]),
        "difference": "–" if one["difference"] is None else signed(one["difference"]),
        "together": "not known" if bounds is None else f"{signed(bounds[0])} to {signed(bounds[1])}",
        "alone": "not known" if alone is None else f"{signed(alone[0])} to {signed(alone[1])}",
        "first_is": str(one["first_is"]),
    }


def _facts(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": name_of(one),
        "method": numbers.plugin_text(one["method"]),
        "base": str(one["base"]["reference"]),
        "delta": bytes_text(int(one["delta_bytes"])) if one["delta_bytes"] is not None else "",
        "seen": str(one["overlap"]["sentence"]),
    }
