"""The plot over depth: metric, seconds and trainable share over the number of frozen blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from matplotlib.axes import Axes

from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain
from regraft.tuning.pages.by_depth import DepthColumn, Knee
from regraft.tuning.pages.score_axes import ScoreAxes
from regraft.tuning.pages.words import bar_label, brief
from regraft.tuning.records import SearchRecord

_TICKS = 13
_LINE = 13
"""Points from one line of text to the next."""


def depth_picture(record: SearchRecord, columns: Sequence[DepthColumn], knee: Knee, name: str = "depth") -> Picture:
    """Draw metric, seconds and trainable share over the columns, one below the other, with the knee through all."""
    about = (
        f"{record.score['name']}, seconds per trial and trainable share over frozen blocks; knee at {knee.column.name}"
    )
    draw = partial(_draw, record, _Layout(tuple(columns), knee))
    return picture(name, about, draw, wide=(10, 6.4), narrow=(3.2, 5.2))


@dataclass(frozen=True)
class _Layout:
    """The columns, each with its place on the x axis, and the knee among them."""

    columns: tuple[DepthColumn, ...]
    knee: Knee

    @cached_property
    def places(self) -> list[float]:
        """Depths true to scale if there is space for all names, else evenly spaced; methods without a depth last."""
        depths = [column.depth for column in self.columns if column.depth is not None]
        even = not depths or depths[-1] - depths[0] > _TICKS - 1
        places = [float(number) if even else float(depth - depths[0]) for number, depth in enumerate(depths)]
        unit = max(1.0, (places[-1] if places else 0.0) / 5)
        first = (places[-1] + 1.3 * unit) if places else 0.0
        return places + [first + number * unit for number in range(len(self.columns) - len(depths))]

    @property
    def placed(self) -> list[tuple[float, DepthColumn]]:
        """Each column with its place."""
        return list(zip(self.places, self.columns, strict=True))

    @property
    def span(self) -> float:
        """Distance from the first place to the last."""
        return self.places[-1] - self.places[0]

    def place_of(self, column: DepthColumn) -> float:
        """Return the place of a column on the x axis."""
        return next(place for place, other in self.placed if other is column)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Return the places and labels of the ticks, of very many depths only some."""
        each = math.ceil(len(self.places) / _TICKS)
        kept = [
            (place, column)
            for number, (place, column) in enumerate(self.placed)
            if number % each == 0 or column.depth is None
        ]
        return [place for place, _ in kept], [_tick(column) for _, column in kept]


def _draw(record: SearchRecord, layout: _Layout, canvas: Canvas) -> None:
    top, middle, low = canvas.figure.subplots(3, sharex=True, gridspec_kw={"height_ratios": [3.4, 1, 1]})
    _draw_scores(ScoreAxes(canvas, top, record.score), layout)
    _draw_bars(middle, layout, [column.seconds for column in layout.columns], "seconds per trial")
    shares = [None if column.share is None else 100 * column.share for column in layout.columns]
    _draw_bars(low, layout, shares, "trainable share, %")
    low.set_xticks(*layout.ticks())
    margin = 0.06 * layout.span + 0.45
    low.set_xlim(layout.places[0] - margin, layout.places[-1] + margin)
    with_depth = any(column.depth is not None for column in layout.columns)
    low.set_xlabel("frozen blocks, counted from the input" if with_depth else "method")
    width, height = canvas.figure.get_size_inches()
    canvas.figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.12 / width,
        top=1 - (0.5 if layout.knee.best is layout.knee.column else 0.69) / height,
        bottom=0.66 / height,
        hspace=0.42,
    )


def _tick(column: DepthColumn) -> str:
    if column.depth is None:
        return "\n".join(brief(word, 11) for word in column.plain_name.split("-")[:3])
    ends = {0: "\nnone", column.blocks: "\nall"} if column.blocks else {}
    return f"{column.depth}{ends.get(column.depth, '')}"


def _draw_scores(score_axes: ScoreAxes, layout: _Layout) -> None:
    axes, sign, knee = score_axes.axes, score_axes.sign, layout.knee
    best = knee.best.best or 0.0
    every = [(place, trial) for place, column in layout.placed for trial in column.shown]
    bests = [column.best for column in layout.columns if column.best is not None]
    least = min(min(sign * height for height in bests), sign * best - 2 * knee.noise)
    score_axes.limit([score_axes.height_of(trial) for _, trial in every], least=sign * least)
    axes.axhspan(best - sign * knee.noise, best, color=COLOURS["right-wash"], linewidth=0)
    score_axes.dots("trials", every)
    with_depth = [
        (place, column.best) for place, column in layout.placed if column.best is not None and column.depth is not None
    ]
    if with_depth:
        axes.plot(*zip(*with_depth, strict=True), color=COLOURS["right"], linewidth=1.8)
    tops = [(place, column.trials[0]) for place, column in layout.placed if column.best is not None]
    score_axes.dots("tops", tops, best=True)
    _mark_knee(axes, layout)
    name = score_axes.score["name"].replace("_", " ")
    plain(
        axes,
        f"{name}{'' if sign > 0 else ' (smaller is better)'}",
        above=6 + _LINE * (1 if knee.best is knee.column else 2),
    )


def _mark_knee(axes: Axes, layout: _Layout) -> None:
    """Draw a ring around the knee, a vertical line through all plots, and the names of the knee and the best."""
    knee, colour = layout.knee, COLOURS["wrong"]
    place = layout.place_of(knee.column)
    axes.axvline(place, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    height = knee.column.best or 0.0
    axes.scatter([place], [height], s=150, facecolors="none", edgecolors=colour, linewidths=1.8, zorder=5)
    label = "best and knee" if knee.best is knee.column else "knee"
    _annotate(axes, layout, knee.column, label, row=0)
    if knee.best is not knee.column:
        _annotate(axes, layout, knee.best, "best", row=1)


def _annotate(axes: Axes, layout: _Layout, column: DepthColumn, label: str, *, row: int) -> None:
    """Write the name of a column above the plot, in the given row, aligned so that it stays within the picture."""
    place = layout.place_of(column)
    share = (place - layout.places[0]) / layout.span if layout.span > 0 else 0.5
    axes.annotate(
        brief(f"{label}: {column.plain_name}", 44),
        (place, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4 + _LINE * row),
        textcoords="offset points",
        color=COLOURS["wrong" if row == 0 else "right"],
        ha="left" if share < 0.34 else "right" if share > 0.66 else "center",
        va="bottom",
        fontweight="bold",
    )


def _draw_bars(axes: Axes, layout: _Layout, heights: Sequence[float | None], title: str) -> None:
    bars = [
        (place, height, column)
        for (place, column), height in zip(layout.placed, heights, strict=True)
        if height is not None
    ]
    plain(axes, title)
    axes.grid(visible=False)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    most = max((height for _, height, _ in bars), default=0.0) or 1.0
    axes.set_ylim(0, 1.3 * most)
    colours = [COLOURS["wrong"] if column is layout.knee.column else COLOURS["right-fill"] for _, _, column in bars]
    gap = min((after - before for before, after in itertools.pairwise(layout.places)), default=1.0)
    axes.bar(
        [place for place, _, _ in bars],
        [height for _, height, _ in bars],
        color=colours,
        width=min(0.56 * gap, 0.09 * (layout.span + 0.9)),
    )
    if len(layout.columns) <= _TICKS:
        for place, height, _ in bars:
            axes.text(place, height + 0.04 * most, bar_label(height), ha="center", va="bottom", color=COLOURS["soft"])
