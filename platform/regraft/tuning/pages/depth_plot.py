"""The picture of depth: metric, cost and trainable share over frozen blocks, and what all pictures place alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain
from regraft.tuning.pages.by_depth import Column, Knee, value
from regraft.tuning.pages.words import brief, rounded, told
from regraft.tuning.records import SearchRecord, TrialRecord

_TICKS = 13
_FAR, _NEAR = 4.0, 1.7
_DOT, _LARGE = 16, 46
_LINE = 13
"""Points from one line of words to the next."""


def depth_picture(record: SearchRecord, columns: Sequence[Column], knee: Knee) -> Picture:
    """Metric, seconds and trainable share over the columns, one below the other, the knee marked through all."""
    about = (
        f"{record.score['name']}, seconds per trial and trainable share over frozen blocks; knee at {knee.column.name}"
    )
    draw = partial(_depth, record, columns, knee)
    return picture("depth", about, draw, wide=(10, 6.4), narrow=(3.2, 5.2))


def _depth(record: SearchRecord, columns: Sequence[Column], knee: Knee, canvas: Canvas) -> None:
    top, middle, low = canvas.figure.subplots(3, sharex=True, gridspec_kw={"height_ratios": [3.4, 1, 1]})
    places = _places(columns)
    _scores(record, columns, places, knee, canvas, top)
    seconds = [column.seconds for column in columns]
    _bars(middle, places, columns, knee, seconds, "seconds per trial")
    shares = [None if column.share is None else 100 * column.share for column in columns]
    _bars(low, places, columns, knee, shares, "trainable share, %")
    low.set_xticks(*_thinned(places, columns))
    margin = 0.06 * (places[-1] - places[0]) + 0.45
    low.set_xlim(places[0] - margin, places[-1] + margin)
    label = "frozen blocks, counted from the input" if any(column.depth is not None for column in columns) else "method"
    low.set_xlabel(label)
    width, height = canvas.figure.get_size_inches()
    canvas.figure.subplots_adjust(
        left=0.5 / width,
        right=1 - 0.12 / width,
        top=1 - (0.5 if knee.best is knee.column else 0.69) / height,
        bottom=0.66 / height,
        hspace=0.42,
    )


def _places(columns: Sequence[Column]) -> list[float]:
    """Depths at their distance where all of them have room for a name, else evenly; methods without one at the end."""
    depths = [column.depth for column in columns if column.depth is not None]
    even = not depths or depths[-1] - depths[0] > _TICKS - 1
    places = [float(number) if even else float(depth - depths[0]) for number, depth in enumerate(depths)]
    unit = max(1.0, (places[-1] if places else 0.0) / 5)
    first = (places[-1] + 1.3 * unit) if places else 0.0
    return places + [first + number * unit for number in range(len(columns) - len(depths))]


def _thinned(places: Sequence[float], columns: Sequence[Column]) -> tuple[list[float], list[str]]:
    each = math.ceil(len(places) / _TICKS)
    kept = [number for number, column in enumerate(columns) if number % each == 0 or column.depth is None]
    return [places[number] for number in kept], [_tick(columns[number]) for number in kept]


def _tick(column: Column) -> str:
    if column.depth is None:
        return "\n".join(brief(part, 11) for part in column.name.split("-")[:3])
    ends = {0: "\nnone", column.blocks: "\nall"} if column.blocks else {}
    return f"{column.depth}{ends.get(column.depth, '')}"


def _scores(
    record: SearchRecord, columns: Sequence[Column], places: Sequence[float], knee: Knee, canvas: Canvas, axes: Axes
) -> None:
    score = record.score
    sign = 1.0 if score["mode"] == "max" else -1.0
    best = knee.best.best or 0.0
    every = [(place, trial) for place, column in zip(places, columns, strict=True) for trial in column.trials]
    bests = [column.best for column in columns if column.best is not None]
    least = min(min(sign * height for height in bests), sign * best - 2 * knee.noise)
    limits(axes, [height_of(trial, score) for _, trial in every], sign, least=sign * least)
    axes.axhspan(best - sign * knee.noise, best, color=COLOURS["right-wash"], linewidth=0)
    dots(canvas, axes, "trials", [(place, trial) for place, trial in every], score)
    with_depth = [
        (place, column.best)
        for place, column in zip(places, columns, strict=True)
        if column.best is not None and column.depth is not None
    ]
    axes.plot(*zip(*with_depth, strict=True), color=COLOURS["right"], linewidth=1.8) if with_depth else None
    tops = [(place, column.trials[0]) for place, column in zip(places, columns, strict=True) if column.best is not None]
    dots(canvas, axes, "tops", tops, score, best=True)
    where = dict(zip([id(column) for column in columns], places, strict=True))
    _mark(axes, where[id(knee.column)], knee.column.best or 0.0, COLOURS["wrong"])
    text = "best and knee" if knee.best is knee.column else "knee"
    _flag(axes, where[id(knee.column)], f"{text}: {knee.column.name}", COLOURS["wrong"], 0, places)
    if knee.best is not knee.column:
        _flag(axes, where[id(knee.best)], f"best: {knee.best.name}", COLOURS["right"], 1, places)
    plain(
        axes,
        f"{score['name'].replace('_', ' ')}{'' if sign > 0 else ' (smaller is better)'}",
        above=6 + _LINE * (1 if knee.best is knee.column else 2),
    )


def _mark(axes: Axes, place: float, height: float, colour: str) -> None:
    """A ring around the knee, and the line through all that is said of it."""
    axes.axvline(place, color=colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.scatter([place], [height], s=150, facecolors="none", edgecolors=colour, linewidths=1.8, zorder=5)


def _flag(axes: Axes, place: float, text: str, colour: str, line: int, places: Sequence[float]) -> None:
    """Words on a line above the picture that stay within it at both ends."""
    share = (place - places[0]) / (places[-1] - places[0]) if places[-1] > places[0] else 0.5
    axes.annotate(
        brief(text, 44),
        (place, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4 + _LINE * line),
        textcoords="offset points",
        color=colour,
        ha="left" if share < 0.34 else "right" if share > 0.66 else "center",
        va="bottom",
        fontweight="bold",
    )


def _bars(
    axes: Axes,
    places: Sequence[float],
    columns: Sequence[Column],
    knee: Knee,
    numbers: Sequence[float | None],
    title: str,
) -> None:
    there = [
        (place, number, column)
        for place, number, column in zip(places, numbers, columns, strict=True)
        if number is not None
    ]
    plain(axes, title)
    axes.grid(visible=False)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    most = max((number for _, number, _ in there), default=0.0) or 1.0
    axes.set_ylim(0, 1.3 * most)
    colours = [COLOURS["wrong"] if column is knee.column else COLOURS["right-fill"] for _, _, column in there]
    gap = min((after - before for before, after in itertools.pairwise(places)), default=1.0)
    axes.bar(
        [place for place, _, _ in there],
        [number for _, number, _ in there],
        color=colours,
        width=min(0.56 * gap, 0.09 * (places[-1] - places[0] + 0.9)),
    )
    if len(columns) <= _TICKS:
        for place, number, _ in there:
            axes.text(place, number + 0.04 * most, rounded(number), ha="center", va="bottom", color=COLOURS["soft"])


def dots(
    canvas: Canvas,
    axes: Axes,
    mark: str,
    placed: Sequence[tuple[float, TrialRecord]],
    score: Mapping[str, str],
    *,
    best: bool = False,
) -> None:
    """Trials where they stand, stopped ones hollow; those beyond the picture as triangles on its edge."""
    low, high = axes.get_ylim()
    groups: dict[str, list[tuple[float, TrialRecord]]] = {"whole": [], "stopped": [], "beyond": []}
    for place, trial in placed:
        within = low <= height_of(trial, score) <= high
        groups["beyond" if not within else "stopped" if trial.status == "stopped" else "whole"].append((place, trial))
    for name, group in groups.items():
        axes.scatter(
            [place for place, _ in group],
            [min(max(height_of(trial, score), low), high) for _, trial in group],
            s=_LARGE if best else _DOT,
            facecolors="none" if name == "stopped" else COLOURS["right"],
            edgecolors=COLOURS["right"],
            alpha=1.0 if best else 0.5,
            linewidths=(1.6 if best else 0.8) if name == "stopped" else 0,
            marker=("v" if score["mode"] == "max" else "^") if name == "beyond" else "o",
            clip_on=False,
            zorder=4 if best else 3,
            gid=canvas.tell(f"{mark}-{name}", [told(trial, score) for _, trial in group]),
        )


def height_of(trial: TrialRecord, score: Mapping[str, str]) -> float:
    found = value(trial.best, score["name"])
    return 0.0 if found is None else found


def limits(axes: Axes, values: Sequence[float], sign: float, *, least: float | None = None) -> None:
    """All values, unless the worst are so far off that nothing could be seen of the others; at least down to `least`.

    With `least` what is worse still gets as much room as lies between it and the best, and no more.
    """
    ordered = sorted(values, key=lambda height: -sign * height)
    best, worst = ordered[0], ordered[-1]
    usual = abs(best - (ordered[(3 * (len(ordered) - 1)) // 4] if least is None else least))
    far = _FAR if least is None else _NEAR
    if usual and abs(best - worst) > far * usual:
        edge = sign * best - far * usual
        worst = min((height for height in ordered if sign * height >= edge), key=lambda height: sign * height)
    margin = 0.06 * abs(best - worst) or 0.05 * abs(best) or 0.5
    axes.set_ylim(min(best, worst) - margin, max(best, worst) + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5))
