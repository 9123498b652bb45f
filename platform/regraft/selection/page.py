"""A selection as one self-contained HTML page: the verdict, the ranking, the layers, the controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.report import html
from regraft.report.charts import Axis, Standing, Standings
from regraft.report.numbers import format_number, signed
from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain
from regraft.selection.choice import BY_ROW, RANKED
from regraft.selection.curve_plot import curve_picture
from regraft.selection.outcome import SelectOutcome
from regraft.units import seconds_text
from regraft.version import VERSION

_TEMPLATES = Path(__file__).parent / "templates"
_WORDS = {"knn": "k-NN", "linear_probe": "linear probe", "logme": "LogME"}
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_ACROSS = "blocks before the features, %; then what the head reads"
_SHOWN = 6
"""Bases whose layers are drawn, the first ones."""


def select_page(outcome: SelectOutcome) -> str:
    """Render the page of a selection."""
    short = short_names([str(one["base"]) for one in outcome.bases])
    names = list(dict.fromkeys(name for one in outcome.bases for name in one["scores"]))
    return (
        html.environment(_TEMPLATES)
        .get_template("select.html.j2")
        .render(
            s=outcome,
            css=html.style(_TEMPLATES / "select.css"),
            release=VERSION,
            first=short[outcome.base],
            headline=shortened(outcome.headline, short),
            warning=shortened(outcome.warning, short),
            ranking=_ranking(outcome, short),
            controls=_controls(outcome, short),
            curve=curve_picture(outcome.curve) if outcome.curve else None,
            depths=_layers(outcome, short),
            names=names,
            rows=[_row(one, names, short) for one in outcome.bases],
            by_row=_listed(BY_ROW),
            ranked_by=_listed(tuple(name for name in RANKED if name in outcome.bases[0]["depths"][0])),
            leads=any(one.get("leads") for one in outcome.bases),
            facts=_facts(outcome),
        )
    )


def short_names(references: list[str]) -> dict[str, str]:
    """Return each reference by the end of its path, as long as that tells them apart."""
    found = {one: one for one in references}
    for count in (1, 2, 3):
        ends = {one: "/".join(one.rstrip("/").split("/")[-count:]) for one in references}
        if len(set(ends.values())) == len(references):
            return ends
    return found


def shortened(text: str, short: Mapping[str, str]) -> str:
    """Return a sentence with the short names in place of references."""
    for reference in sorted(short, key=len, reverse=True):
        text = text.replace(reference, short[reference])
    return text


def _listed(names: tuple[str, ...]) -> str:
    known = [_WORDS.get(name, name) for name in names]
    return f"{', '.join(known[:-1])} and {known[-1]}"


def _placed(lines: list[tuple[str, float, float | None, float | None]]) -> Standings:
    """Return the lines on one axis, the first as the main one."""
    values = [value for _, *figures in lines for value in figures if value is not None]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    axis = Axis(min(values) - margin, max(values) + margin, 0, 100)
    placed = [
        Standing(
            name,
            value,
            axis.at(value),
            None if low is None else axis.at(low),
            None if high is None else axis.at(high),
            main=number == 0,
        )
        for number, (name, value, low, high) in enumerate(lines)
    ]
    return Standings(axis, tuple(placed))


def _ranking(outcome: SelectOutcome, short: Mapping[str, str]) -> Standings:
    first = float(outcome.bases[0]["score"])
    lines: list[tuple[str, float, float | None, float | None]] = []
    for one in outcome.bases:
        behind = one["behind"]
        bounds = (None, None) if behind is None else (first - behind["high"], first - behind["low"])
        lines.append((short[one["base"]], float(one["score"]), *bounds))
    return _placed(lines)


def _controls(outcome: SelectOutcome, short: Mapping[str, str]) -> Standings:
    lines: list[tuple[str, float, float | None, float | None]] = [(short[outcome.base], outcome.probe, None, None)]
    for one in outcome.baselines:
        ahead = one["ahead"]
        lines.append((str(one["name"]), one["score"], outcome.probe - ahead["high"], outcome.probe - ahead["low"]))
    return _placed(lines)


def _layers(outcome: SelectOutcome, short: Mapping[str, str]) -> Picture:
    shown = outcome.bases[:_SHOWN]

    def draw(canvas: Canvas) -> None:
        axes = canvas.figure.subplots()
        ends: list[tuple[float, str, str]] = []
        for number, one in enumerate(shown):
            blocks = max(1, max(point["depth"] for point in one["depths"]))
            last = len(one["depths"]) - 1
            places = [
                100 * point["depth"] / blocks + (6 if at == last else 0) for at, point in enumerate(one["depths"])
            ]
            heights = [point["score"] for point in one["depths"]]
            colour = COLOURS["right" if number == 0 else "soft" if one["tied"] else "wrong-fill"]
            axes.plot(places, heights, color=colour, linewidth=2.2 if number == 0 else 1.2, marker="o", markersize=3.5)
            ends.append((heights[-1], short[one["base"]], colour))
        _name_ends(canvas, axes, ends)
        axes.set_xlabel("blocks before, %; then the head" if canvas.narrow else _ACROSS)
        axes.set_xlim(0, 150 if canvas.narrow else 125)
        axes.set_xticks([0, 25, 50, 75, 100])
        plain(axes, f"mean of {_listed(BY_ROW)}")
        width, height = canvas.figure.get_size_inches()
        canvas.figure.subplots_adjust(
            left=0.5 / width, right=1 - 0.1 / width, top=1 - 0.3 / height, bottom=0.5 / height
        )

    names = ", ".join(short[one["base"]] for one in shown)
    return picture("depths", f"scores by depth of {names}", draw, wide=(10, 3.6), narrow=(3.2, 3.0))


def _name_ends(canvas: Canvas, axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write names beside the ends of lines, apart from each other."""
    low, high = axes.get_ylim()
    step = (high - low) * 13 / (72 * (canvas.figure.get_size_inches()[1] - 0.8))
    at = float("inf")
    for height, name, colour in sorted(ends, reverse=True):
        at = min(height, at - step)
        brief = name if len(name) <= 22 else f"{name[:10]}…{name[-10:]}"
        axes.text(108, at, brief, color=colour, va="center", fontweight="bold")


def _row(one: Mapping[str, Any], names: list[str], short: Mapping[str, str]) -> dict[str, Any]:
    behind = one["behind"]
    return {
        "name": short[one["base"]],
        "tied": one["tied"],
        "trained_for": one["trained_for"],
        "rank": format_number(float(one["rank"])),
        "scores": [format_number(one["scores"].get(name)) for name in names],
        "parameters": large(one["parameters"]),
        "operations": large(one["operations"]),
        "depth": one["depth"],
        "behind": ""
        if behind is None
        else f"{signed(behind['value'])} ({signed(behind['low'])} to {signed(behind['high'])})",
    }


def large(number: float) -> str:
    """Return a large number in three digits with a unit: `22.7 M`."""
    for size, unit in _LARGE:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _facts(outcome: SelectOutcome) -> list[tuple[str, str, bool]]:
    """Return name and value of each fact, and whether the value is shown as code."""
    facts = [(f"{one['place']}. base", str(one["base"]), True) for one in outcome.bases]
    facts += [
        ("labels", f"{outcome.kind}", False),
        ("rows", ", ".join(f"{count:,} {side}" for side, count in outcome.rows.items()), False),
        ("not read to choose", "evaluation and test rows", False),
        ("selection", outcome.name, True),
        ("store", outcome.store, True),
        ("time", seconds_text(outcome.seconds), False),
    ]
    return [fact for fact in facts if fact[1]]
