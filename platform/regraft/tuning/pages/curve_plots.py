"""Plots of the metric over searched numbers and over training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain
from regraft.tuning.pages.by_depth import ended, epochs_of, value
from regraft.tuning.pages.score_axes import ScoreAxes
from regraft.tuning.pages.words import brief, compact_number, numeric_fields, tooltip
from regraft.tuning.records import SearchRecord, TrialRecord

PANELS = 12
"""Limit of panels of one picture."""


@dataclass(frozen=True)
class Panel:
    """One small plot: the metric over a searched number of some trials."""

    title: str
    trials: tuple[TrialRecord, ...]
    """The best first."""
    field: str

    @property
    def numbers(self) -> list[float]:
        """The searched number of each trial."""
        return [numeric_fields(trial)[self.field] for trial in self.trials]


def number_picture(
    name: str,
    record: SearchRecord,
    panels: Sequence[Panel],
    trials: Sequence[TrialRecord],
    *,
    logarithmic: Mapping[str, bool],
) -> Picture:
    """Draw the metric over searched numbers, one panel each, on one scale.

    `trials` are all trials with a result, the best first; `logarithmic` says of each field whether its axis is.
    """
    shown = list(panels)[:PANELS]
    about = f"{record.score['name']} over {', '.join(dict.fromkeys(panel.field for panel in shown))}: " + "; ".join(
        panel.title for panel in shown
    )
    across, few = min(4, len(shown)), min(2, len(shown))
    size = (10, 0.5 + 2.3 * math.ceil(len(shown) / across) + (0.9 if len(shown) == 1 else 0))
    small = (3.2, 0.5 + 2.0 * math.ceil(len(shown) / few) + (0.5 if len(shown) == 1 else 0))
    draw = partial(_draw_panels, record=record, panels=shown, trials=trials, logarithmic=logarithmic)
    return picture(name, about, draw, wide=size, narrow=small)


def _draw_panels(
    canvas: Canvas,
    record: SearchRecord,
    panels: Sequence[Panel],
    *,
    trials: Sequence[TrialRecord],
    logarithmic: Mapping[str, bool],
) -> None:
    across = min(2 if canvas.narrow else 4, len(panels))
    grid = canvas.figure.subplots(math.ceil(len(panels) / across), across, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        score_axes = ScoreAxes(canvas, axes, record.score)
        score_axes.limit([score_axes.height_of(trial) for trial in trials])
        plain(axes, brief(panel.title, 18 if canvas.narrow else 34))
        if compared := [trial for trial in trials if ended(trial)]:
            best = score_axes.height_of(compared[0])
            axes.axhline(best, color=COLOURS["faint"], linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
        reach = {number for other in panels if other.field == panel.field for number in other.numbers}
        _scale_x(axes, sorted(reach), log=logarithmic[panel.field], narrow=canvas.narrow)
        placed = list(zip(panel.numbers, panel.trials, strict=True))
        top = next((pair for pair in placed if ended(pair[1])), None)
        score_axes.dots(f"panel-{place}", [pair for pair in placed if pair is not top])
        score_axes.dots(f"top-{place}", [top] if top else [], best=True)
    width, height = canvas.figure.get_size_inches()
    canvas.figure.subplots_adjust(
        left=0.5 / width, right=1 - 0.14 / width, top=1 - 0.28 / height, bottom=0.32 / height, hspace=0.42, wspace=0.1
    )


def _scale_x(axes: Axes, values: Sequence[float], *, log: bool, narrow: bool) -> None:
    """Put ticks at the searched values if these are few and apart, else at round ones."""
    most = 3 if narrow else 4
    if log:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.8, values[-1] * 1.8)
        few = _apart([math.log(at) for at in values], most)
        axes.xaxis.set_major_locator(FixedLocator(values if few else _decades(values[0], values[-1], most)))
    else:
        margin = 0.1 * (values[-1] - values[0]) or 0.5 * abs(values[0]) or 0.5
        axes.set_xlim(values[0] - margin, values[-1] + margin)
        axes.xaxis.set_major_locator(FixedLocator(values) if _apart(values, most) else MaxNLocator(most))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: compact_number(at)))


def _apart(values: Sequence[float], most: int) -> bool:
    """Return whether there is space for a label beneath each of these ascending values."""
    gaps = [after - before for before, after in itertools.pairwise(values)]
    return len(values) <= most and all(gap >= 0.22 * (values[-1] - values[0]) for gap in gaps)


def _decades(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` powers of ten, over short ranges also their multiples by 2, 3 or 5."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def curve_picture(record: SearchRecord, trials: Sequence[TrialRecord], best: TrialRecord | None) -> Picture:
    """Draw the metric of every trial over its training, with marks for stopped and failed ones, and the best on top."""
    about = f"{record.score['name']} of {len(trials)} trials over training"
    draw = partial(_draw_curves, record, trials, best)
    return picture("learning-curves", about, draw, wide=(10, 4.6), narrow=(3.2, 3.4))


Track = list[tuple[float, float]]
"""The (epoch or step, metric) of each evaluation of a trial."""


def track(trial: TrialRecord, name: str, clock: str) -> Track:
    """Return the trial's evaluations, without metrics that are not finite."""
    found = [(value(report, clock), value(report.get("metrics"), name)) for report in trial.reports]
    return [(at, metric) for at, metric in found if at is not None and metric is not None]


def clock_of(trials: Sequence[TrialRecord]) -> str:
    """Return the unit of the x axis: `epoch`, or `step` if no trial reports epochs."""
    return "epoch" if any(epochs_of(trial) > 0 for trial in trials) else "step"


def _draw_curves(record: SearchRecord, trials: Sequence[TrialRecord], best: TrialRecord | None, canvas: Canvas) -> None:
    score_axes = ScoreAxes(canvas, canvas.figure.subplots(), record.score)
    axes, clock = score_axes.axes, clock_of(trials)
    tracks = [(trial, track(trial, record.score["name"], clock)) for trial in trials]
    tracks = [(trial, points) for trial, points in tracks if points]
    score_axes.limit([metric for _, points in tracks for _, metric in points])
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
    for status, marker, size in (("stopped", "o", 11), ("failed", "x", 26)):
        _mark_ends(score_axes, tracks, status, marker=marker, size=size)
    plain(axes, record.score["name"].replace("_", " "))
    axes.set_xlabel(clock)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _add_legend(axes, canvas, best, len(tracks))


def _mark_ends(
    score_axes: ScoreAxes, tracks: Sequence[tuple[TrialRecord, Track]], status: str, *, marker: str, size: int
) -> None:
    """Mark the last evaluation of each trial with this status."""
    ends = [(points[-1], trial) for trial, points in tracks if trial.status == status]
    low, high = score_axes.axes.get_ylim()
    score_axes.axes.scatter(
        [point[0] for point, _ in ends],
        [min(max(point[1], low), high) for point, _ in ends],
        marker=marker,
        s=size,
        color=COLOURS["wrong"],
        linewidths=1.6 if marker == "x" else 0,
        zorder=3,
        clip_on=False,
        label=f"{status} ({len(ends)})" if ends else None,
        gid=score_axes.canvas.label(status, [tooltip(trial, score_axes.score) for _, trial in ends]),
    )


def _add_legend(axes: Axes, canvas: Canvas, best: TrialRecord | None, count: int) -> None:
    if best is not None:
        axes.plot([], [], color=COLOURS["right"], linewidth=2.4, marker="o", markersize=4.5, label=f"best: {best.id}")
    if count > 1:
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
