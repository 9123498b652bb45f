"""The report of a search: one self-contained HTML page, and its pictures as PNG files beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.report import html
from regraft.report.numbers import format_number
from regraft.report.svg import Picture
from regraft.store.atomic_files import writing_locally
from regraft.tuning.pages.beside_baselines import baseline_chart, baseline_rows, baseline_sentence, text_on_test
from regraft.tuning.pages.by_base import base_rows
from regraft.tuning.pages.by_depth import DepthColumn, Knee, depth_columns, ended, epochs_of, find_knee, ranked, value
from regraft.tuning.pages.curve_plots import PANELS, Panel, clock_of, curve_picture, number_picture, track
from regraft.tuning.pages.depth_plot import depth_picture
from regraft.tuning.pages.words import (
    brief,
    field_text,
    fields_of,
    numeric_fields,
    shared_facts,
    shared_paragraph,
    short_name,
    status_text,
)
from regraft.tuning.records import SearchRecord, TrialRecord
from regraft.units import seconds_text
from regraft.version import VERSION

HTML = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
_PICTURES = ("depth", "learning-rate", "searched-numbers", "learning-curves")
_MOST_BASES = 8
"""Bases whose depths are drawn; the table has all."""
_RATE, _DEPTH = "training.lr", "method.depth"
_OPEN = 40
"""Trials that the table shows unfolded."""
_APART = 20.0
"""A searched number gets a logarithmic axis from this ratio of the largest value to the smallest."""
_MOST_FIELDS = 4


@dataclass(frozen=True)
class TrialRow:
    """A trial in the table."""

    trial: TrialRecord
    cells: tuple[str, ...]
    score: float | None
    epochs: str
    share: str
    chosen: bool
    partial: bool
    """Whether it has a result, but was stopped before its end."""


def write_report(record: SearchRecord, trials: Sequence[TrialRecord], folder: Path) -> list[Path]:
    """Write `report.html` and a PNG of each picture into the folder, and return their paths, the page first.

    The report of a running search may be written repeatedly: each file is replaced atomically, and pictures that no
    longer apply are deleted. Raises StoreError if the folder cannot be written.
    """
    pictures = _pictures(record, trials)
    text = _page(record, trials, pictures)
    with writing_locally(folder):
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / f"{name}.png" for name in pictures]
        for path, drawn in zip(written, pictures.values(), strict=True):
            html.put(path, drawn.png)
        html.put(folder / HTML, text)
        for name in (*_PICTURES, *(f"depth-{number}" for number in range(1, _MOST_BASES + 1))):
            if name not in pictures:
                (folder / f"{name}.png").unlink(missing_ok=True)
    return [folder / HTML, *written]


def _pictures(record: SearchRecord, trials: Sequence[TrialRecord]) -> dict[str, Picture]:
    """Draw every picture that has something to show, by name."""
    best_first = ranked(trials, record.score)
    columns = _shown(depth_columns(trials, record.score))
    drawn: list[Picture] = []
    for number, own in enumerate(_by_base(columns)[:_MOST_BASES], 1):
        name = f"depth-{number}" if own[0].base else "depth"
        if len(own) > 1 and (knee := find_knee(own, record.score, record.rows.get("eval", 0))):
            drawn.append(depth_picture(record, own, knee, name))
    if panels := _rate_panels(best_first, columns):
        drawn.append(
            number_picture("learning-rate", record, panels, best_first, logarithmic=_logarithmic(record, panels))
        )
    if panels := _number_panels(best_first):
        drawn.append(
            number_picture("searched-numbers", record, panels, best_first, logarithmic=_logarithmic(record, panels))
        )
    if any(track(trial, record.score["name"], clock_of(trials)) for trial in trials):
        drawn.append(curve_picture(record, trials, _winner(record, trials)))
    return {picture.name: picture for picture in drawn}


def _shown(columns: Sequence[DepthColumn]) -> list[DepthColumn]:
    """Return the columns with a result, which are drawn."""
    return [column for column in columns if column.shown]


def _by_base(columns: Sequence[DepthColumn]) -> list[list[DepthColumn]]:
    """Return the columns of each base."""
    found: dict[str, list[DepthColumn]] = {}
    for column in columns:
        found.setdefault(column.base, []).append(column)
    return list(found.values())


def _winner(record: SearchRecord, trials: Sequence[TrialRecord]) -> TrialRecord | None:
    best_first = ranked(trials, record.score)
    named = next((trial for trial in best_first if trial.id == record.winner), None)
    return named or next(iter(best_first), None)


def _rate_panels(best_first: Sequence[TrialRecord], columns: Sequence[DepthColumn]) -> list[Panel]:
    """Return the learning rates of each column, the least frozen first; of many columns those with the best trials."""
    groups = [(column.brief, column.shown) for column in columns] if len(columns) > 1 else [("all trials", best_first)]
    rated = [
        (name, tuple(trial for trial in group if numeric_fields(trial).get(_RATE, 0) > 0)) for name, group in groups
    ]
    panels = [Panel(name, group, _RATE) for name, group in rated if group]
    if len({rate for panel in panels for rate in panel.numbers}) < 2:
        return []
    rank = {trial.id: number for number, trial in enumerate(best_first)}
    chosen = sorted(panels, key=lambda panel: rank[panel.trials[0].id])[:PANELS]
    return [panel for panel in panels if panel in chosen]


def _number_panels(best_first: Sequence[TrialRecord]) -> list[Panel]:
    """Return each other searched number that took more than one value."""
    found = []
    for field in fields_of(best_first):
        group = tuple(trial for trial in best_first if field in numeric_fields(trial))
        panel = Panel(short_name(field), group, field)
        if field not in (_RATE, _DEPTH) and len(set(panel.numbers)) > 1:
            found.append(panel)
    return found[:PANELS]


def _logarithmic(record: SearchRecord, panels: Sequence[Panel]) -> dict[str, bool]:
    """Return for each field whether its axis is logarithmic, by the space's draw or by the ratio of its values."""
    found = {}
    for panel in panels:
        values = [number for other in panels if other.field == panel.field for number in other.numbers]
        drawn = record.space.get(panel.field)
        written = panel.field == _RATE or (isinstance(drawn, Mapping) and "loguniform" in drawn)
        found[panel.field] = min(values) > 0 and (written or max(values) / min(values) >= _APART)
    return found


def _page(record: SearchRecord, trials: Sequence[TrialRecord], pictures: Mapping[str, Picture]) -> str:
    best_first = ranked(trials, record.score)
    columns = depth_columns(trials, record.score)
    knee = find_knee(columns, record.score, record.rows.get("eval", 0))
    rows, fields = _rows(record, trials, best_first)
    winner = _winner(record, trials)
    own = record.seen_from(winner) if winner else record
    bases = base_rows(record, trials)
    store = f" --store {shlex.quote(record.store)}" if not record.store.rstrip("/").endswith("regraft-store") else ""
    environment = html.environment(_TEMPLATES)
    environment.filters["percent"] = percent
    return environment.get_template("search.html.j2").render(
        s=record,
        css=html.style(_TEMPLATES / "search.css"),
        release=VERSION,
        counts=_counts(trials),
        winner=winner,
        winner_score=value(winner.best, record.score["name"]) if winner else None,
        winner_settings=_settings(winner) if winner else (),
        winner_partial=status_text(winner) if winner and not ended(winner) else "",
        standing=baseline_chart(own, winner) if winner else None,
        beside=baseline_sentence(own, winner) if winner else "",
        baselines=baseline_rows(own),
        bases=bases,
        depth_pictures=[name for name in pictures if name.startswith("depth")],
        depth_titles={f"depth-{n}": own[0].base for n, own in enumerate(_by_base(_shown(columns)), 1)},
        columns=columns,
        knee=knee,
        knee_text=_knee_text(knee, columns, record.score),
        pictures=pictures,
        panels_note=_panels_note(columns),
        statuses={trial.status for trial in trials},
        partial=any(not ended(trial) for trial in best_first),
        fields=fields,
        rows=rows[:_OPEN],
        more=rows[_OPEN:],
        next_one=next((trial for trial in best_first if trial.checkpoint and not trial.registered), None),
        registered=[trial for trial in best_first if trial.registered],
        store=store,
        shared=shared_paragraph(record, trials),
        shared_facts=shared_facts(record),
        facts=_facts(record, trials),
    )


def _counts(trials: Sequence[TrialRecord]) -> str:
    """Return the number of trials by status: `18 finished, 4 stopped early, 2 failed`."""
    named = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "running": "running"}
    named["waiting"] = "waiting"
    counts = {status: sum(trial.status == status for trial in trials) for status in named}
    return ", ".join(f"{number:,} {named[status]}" for status, number in counts.items() if number)


def _settings(trial: TrialRecord) -> list[tuple[str, str]]:
    return [(short_name(field), field_text(field, written)) for field, written in trial.overrides.items()]


def _rows(
    record: SearchRecord, trials: Sequence[TrialRecord], best_first: Sequence[TrialRecord]
) -> tuple[list[TrialRow], list[str]]:
    """Return the table's rows, and the names of its searched columns.

    Trials that ran to their end come first, the best of them at the top; then those that were stopped, and then those
    without a result.
    """
    fields = fields_of(trials)
    apart = 0 < len(fields) <= _MOST_FIELDS
    ids = {trial.id for trial in best_first}
    rest = sorted((trial for trial in trials if trial.id not in ids), key=lambda trial: trial.number)
    winner = _winner(record, trials)
    longest = max(map(epochs_of, trials), default=0.0)
    rows = []
    for trial in [*sorted(best_first, key=lambda trial: not ended(trial)), *rest]:
        each = [field_text(field, trial.overrides[field]) if field in trial.overrides else "" for field in fields]
        joined = " · ".join(f"{name} {written}" for name, written in _settings(trial))
        rows.append(
            TrialRow(
                trial,
                tuple(each) if apart else (brief(joined, 400),),
                value(trial.best, record.score["name"]),
                _epochs_text(trial, longest),
                percent(trial.trainable / trial.total) if trial.total else "–",
                winner is not None and trial.id == winner.id,
                trial.id in ids and not ended(trial),
            )
        )
    return rows, [short_name(field) for field in fields] if apart else ["settings"]


def _epochs_text(trial: TrialRecord, longest: float) -> str:
    """Return a trial's epochs, of a trial that was stopped with the most that a trial had: `1 of 4`."""
    epochs = epochs_of(trial)
    if not epochs:
        return "–"
    return f"{epochs:.3g}" if ended(trial) or epochs >= longest else f"{epochs:.3g} of {longest:.3g}"


def percent(share: float) -> str:
    """Return a share as text: `18 %`, `0.4 %`, `<0.1 %`."""
    number = 100 * share
    if 0 < number < 0.1:
        return "<0.1 %"
    return f"{number:.0f} %" if number >= 10 else f"{number:.1f} %"


def _knee_text(knee: Knee | None, columns: Sequence[DepthColumn], score: Mapping[str, str]) -> str:
    """Return what the knee means for the choice of a depth, and which columns could not be compared."""
    left_out = [column for column in columns if column.unfinished and not column.trials]
    names = ", ".join(column.name for column in left_out)
    without = f" Nothing can be said of {names}: all trials there were stopped before their end." if left_out else ""
    if knee is None:
        return f"No trial ran to its end, so that none can be compared with another.{without}" if left_out else ""
    return f"{_knee_sentence(knee, score)}{without}"


def _knee_sentence(knee: Knee, score: Mapping[str, str]) -> str:
    name, best, column = score["name"].replace("_", " "), knee.best, knee.column
    if best is column:
        return (
            "Of the trials that ran to their end, the best is also the knee: nothing that costs less comes within "
            f"noise of its {name} of {format_number(best.best)}, noise being {knee.source}."
        )
    text = (
        f"The knee is at {column.name}: its best {name}, {format_number(column.best)}, lies within noise of the best "
        f"of all trials that ran to their end, {format_number(best.best)} ({best.name}), noise being {knee.source}."
    )
    cost = []
    if column.seconds is not None and best.seconds is not None:
        cost.append(f"a trial takes {_unbroken(column.seconds)} instead of {_unbroken(best.seconds)}")
    if column.share is not None and best.share is not None:
        cost.append(f"{percent(column.share)} of the parameters move instead of {percent(best.share)}")
    return f"{text} There {' and '.join(cost)}." if cost else text


def _unbroken(seconds: float) -> str:
    """Return a duration without a place for a line break."""
    return seconds_text(seconds).replace(" ", "\u00a0")


def _panels_note(columns: Sequence[DepthColumn]) -> str:
    count = sum(bool(column.shown) for column in columns)
    return f" Of {count} depths and methods, the {PANELS} with the best trials are shown." if count > PANELS else ""


def _facts(record: SearchRecord, trials: Sequence[TrialRecord]) -> list[tuple[str, str, bool]]:
    """Return name, value and whether to show it as code."""
    rows = ", ".join(f"{number:,} {name}" for name, number in record.rows.items())
    asked = f"{record.trials:,} asked for, " if record.trials else ""
    facts = [
        ("search", record.name, True),
        ("model", record.model, True),
        *[("base", reference, True) for reference in record.bases or [record.base]],
        ("rows", rows, False),
        *[
            (f"test rows, trial {trial}", text_on_test(found, record.score["name"]), False)
            for trial, found in record.test.items()
        ],
        (
            "decided by",
            f"{record.score['name']}, {'larger' if record.score['mode'] == 'max' else 'smaller'} is better",
            False,
        ),
        *[
            (f"space: {field}", brief(json.dumps(drawn, default=str, ensure_ascii=False), 600), True)
            for field, drawn in record.space.items()
        ],
        ("sampler", record.sampler, False),
        ("scheduler", record.scheduler, False),
        ("trials", f"{asked}{len(trials):,} begun" if trials else f"{asked}none begun", False),
        ("wall time", seconds_text(record.seconds), False),
        ("computing time of trials", seconds_text(sum(trial.seconds for trial in trials)), False),
        ("store", record.store, True),
    ]
    return [(name, str(fact), code) for name, fact, code in facts if fact]
