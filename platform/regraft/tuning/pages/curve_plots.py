"""The pictures of trends: the metric over searched numbers, and over training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain
from regraft.tuning.pages.by_depth import epochs_of, value
from regraft.tuning.pages.depth_plot import dots, height_of, limits
from regraft.tuning.pages.words import brief, figures_of, number, told
from regraft.tuning.records import SearchRecord, TrialRecord

PANELS = 12
"""More small pictures than that are no picture."""


@dataclass(frozen=True)
class Panel:
    """Trials of one small picture: a searched number of each, and what is said above."""

    title: str
    trials: tuple[TrialRecord, ...]
    """The best first."""
    field: str


def number_picture(
    name: str, record: SearchRecord, panels: Sequence[Panel], trials: Sequence[TrialRecord], kinds: Mapping[str, bool]
) -> Picture:
    """The metric over searched numbers, one small picture each on one scale; `kinds` says which axes are logarithmic.

    `trials` are all with a result, the best first.
    """
    shown = list(panels)[:PANELS]
    about = f"{record.score['name']} over {', '.join(dict.fromkeys(panel.field for panel in shown))}: " + "; ".join(
        panel.title for panel in shown
    )
    across, few = min(4, len(shown)), min(2, len(shown))
    size = (10, 0.5 + 2.3 * math.ceil(len(shown) / across) + (0.9 if len(shown) == 1 else 0))
    small = (3.2, 0.5 + 2.0 * math.ceil(len(shown) / few) + (0.5 if len(shown) == 1 else 0))
    return picture(name, about, partial(_numbers, record, shown, trials, kinds), wide=size, narrow=small)


def _numbers(
    record: SearchRecord,
    panels: Sequence[Panel],
    trials: Sequence[TrialRecord],
    kinds: Mapping[str, bool],
    canvas: Canvas,
) -> None:
    across = min(2 if canvas.narrow else 4, len(panels))
    grid = canvas.figure.subplots(math.ceil(len(panels) / across), across, squeeze=False, sharey=True)
    score, sign = record.score, 1.0 if record.score["mode"] == "max" else -1.0
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        limits(axes, [height_of(trial, score) for trial in trials], sign)
        plain(axes, brief(panel.title, 18 if canvas.narrow else 34))
        axes.axhline(
            height_of(trials[0], score), color=COLOURS["faint"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1
        )
        placed = [(figures_of(trial)[panel.field], trial) for trial in panel.trials]
        reach = {
            figures_of(trial)[panel.field] for other in panels if other.field == panel.field for trial in other.trials
        }
        _across(axes, sorted(reach), log=kinds[panel.field], narrow=canvas.narrow)
        dots(canvas, axes, f"panel-{place}", placed[1:], score)
        dots(canvas, axes, f"top-{place}", placed[:1], score, best=True)
    width, height = canvas.figure.get_size_inches()
    canvas.figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.14 / width, top=1 - 0.28 / height, bottom=0.32 / height, hspace=0.42, wspace=0.1
    )


def _across(axes: Axes, values: Sequence[float], *, log: bool, narrow: bool) -> None:
    """The searched values themselves where they are few and apart, else round ones."""
    room = 3 if narrow else 4
    if log:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.8, values[-1] * 1.8)
        few = _apart([math.log(at) for at in values], room)
        axes.xaxis.set_major_locator(FixedLocator(values if few else _decades(values[0], values[-1], room)))
    else:
        margin = 0.1 * (values[-1] - values[0]) or 0.5 * abs(values[0]) or 0.5
        axes.set_xlim(values[0] - margin, values[-1] + margin)
        axes.xaxis.set_major_locator(FixedLocator(values) if _apart(values, room) else MaxNLocator(room))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: number(at)))


def _apart(values: Sequence[float], room: int) -> bool:
    """Whether each of these places, from the least on, can have its name beneath it."""
    gaps = [after - before for before, after in itertools.pairwise(values)]
    return len(values) <= room and all(gap >= 0.22 * (values[-1] - values[0]) for gap in gaps)


def _decades(low: float, high: float, room: int) -> list[float]:
    """Powers of ten, or 1, 2 and 5 times them over short ranges, no more than there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
        if len(ticks) <= room:
            return ticks
    return ticks[:: math.ceil(len(ticks) / room)]


def curve_picture(record: SearchRecord, trials: Sequence[TrialRecord], best: TrialRecord | None) -> Picture:
    """The metric of every trial over its training, where it was stopped or failed, and the best on top."""
    about = f"{record.score['name']} of {len(trials)} trials over training"
    return picture("learning-curves", about, partial(_curves, record, trials, best), wide=(10, 4.6), narrow=(3.2, 3.4))


def track(trial: TrialRecord, name: str, clock: str) -> list[tuple[float, float]]:
    """The trial's evaluations as (epoch or step, metric), without what is no number."""
    found = [(value(report, clock), value(report.get("metrics"), name)) for report in trial.reports]
    return [(at, metric) for at, metric in found if at is not None and metric is not None]


def clock_of(trials: Sequence[TrialRecord]) -> str:
    """What training is measured by: epochs, or steps where these do not tell evaluations apart."""
    return "epoch" if any(epochs_of(trial) > 0 for trial in trials) else "step"


def _curves(record: SearchRecord, trials: Sequence[TrialRecord], best: TrialRecord | None, canvas: Canvas) -> None:
    axes = canvas.figure.subplots()
    score, sign = record.score, 1.0 if record.score["mode"] == "max" else -1.0
    clock = clock_of(trials)
    tracks = [(trial, track(trial, score["name"], clock)) for trial in trials]
    tracks = [(trial, points) for trial, points in tracks if points]
    limits(axes, [metric for _, points in tracks for _, metric in points], sign)
    faint = 0.75 if len(tracks) <= 30 else 0.4
    for trial, points in tracks:
        chosen = best is not None and trial.id == best.id
        colour, width = (COLOURS["right"], 2.4) if chosen else (COLOURS["faint"], 0.9)
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=width,
            alpha=1 if chosen else faint,
            marker="o" if len(points) == 1 or chosen else None,
            markersize=4.5 if chosen else 2.5,
            zorder=4 if chosen else 2,
        )
    for status, mark, size in (("stopped", "o", 11), ("failed", "x", 26)):
        ends = [(points[-1], trial) for trial, points in tracks if trial.status == status]
        low, high = axes.get_ylim()
        axes.scatter(
            [point[0] for point, _ in ends],
            [min(max(point[1], low), high) for point, _ in ends],
            marker=mark,
            s=size,
            color=COLOURS["wrong"],
            linewidths=1.6 if mark == "x" else 0,
            zorder=3,
            clip_on=False,
            label=f"{status} ({len(ends)})" if ends else None,
            gid=canvas.tell(status, [told(trial, score) for _, trial in ends]),
        )
    _close_curves(axes, canvas, f"{score['name'].replace('_', ' ')}", clock, best, len(tracks))


def _close_curves(axes: Axes, canvas: Canvas, title: str, clock: str, best: TrialRecord | None, number: int) -> None:
    plain(axes, title)
    axes.set_xlabel(clock)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if best is not None:
        axes.plot([], [], color=COLOURS["right"], linewidth=2.4, marker="o", markersize=4.5, label=f"best: {best.id}")
    if number > 1:
        axes.plot([], [], color=COLOURS["faint"], linewidth=0.9, label="other trials")
    width, height = canvas.figure.get_size_inches()
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        canvas.figure.legend(
            handles[::-1],
            labels[::-1],
            loc="lower left",
            bbox_to_anchor=(0.32 / width, 0),
            ncols=2 if canvas.narrow else 4,
        )
    canvas.figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.14 / width, top=1 - 0.3 / height, bottom=(1.05 if canvas.narrow else 0.8) / height
    )
