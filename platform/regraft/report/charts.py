"""Geometry of charts: axes with round ticks, dots, and lines as SVG paths, which templates draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from regraft.contracts.findings import Curve

WIDTH, HEIGHT = 380, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 46
_SMALL_DOT, _LARGE_DOT = 2.5, 9.0
_MOST_DOTS = 15

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear map from values to positions in the chart."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the position of a value, clipped to the ends of the axis."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)

    def ticks(self, wanted: int = 5) -> tuple[Tick, ...]:
        """Return about `wanted` ticks at round values."""
        return tuple(Tick(self.at(value), label) for value, label in round_values(self.low, self.high, wanted))


@dataclass(frozen=True)
class Dot:
    """A point of a curve, with its tooltip."""

    x: float
    y: float
    radius: float
    tooltip: str


@dataclass(frozen=True)
class CurveView:
    """A curve with everything that its template draws."""

    curve: Curve
    x: Axis
    y: Axis
    line: str
    ideal: str
    dots: tuple[Dot, ...]


def curve_view(curve: Curve) -> CurveView:
    """Place a curve on its axes; values between 0 and 1 get an axis from 0 to 1."""
    both = [*curve.points, *curve.ideal]
    x = Axis(*_range([point[0] for point in both]), LEFT, WIDTH - RIGHT)
    y = Axis(*_range([point[1] for point in both]), HEIGHT - BOTTOM, TOP)
    line = path(curve.points, x, y) if curve.joined else ""
    return CurveView(curve, x, y, line, path(curve.ideal, x, y), _dots(curve, x, y))


def path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Return an SVG path through the points; points that are not finite interrupt it."""
    pieces, pen = [], "M"
    for across, up in points:
        if not (math.isfinite(across) and math.isfinite(up)):
            pen = "M"
            continue
        pieces.append(f"{pen}{x.at(across):g} {y.at(up):g}")
        pen = "L"
    return "".join(pieces)


def round_values(low: float, high: float, wanted: int = 5) -> list[tuple[float, str]]:
    """Return about `wanted` multiples of 1, 2 or 5 times a power of ten between low and high, with their labels."""
    if not high > low:
        return [(low, f"{low:.3g}")]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(number * step, f"{number * step + 0.0:.{places}f}") for number in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    margin = 0.05 * (high - low) or 1.0
    return (0.0 if 0 <= low < high / 3 else low - margin), high + margin


def _dots(curve: Curve, x: Axis, y: Axis) -> tuple[Dot, ...]:
    """Return a dot for each point, its area proportional to its rows; none for a line with many points."""
    if curve.joined and not curve.weights and len(curve.points) > _MOST_DOTS:
        return ()
    most = max(curve.weights, default=0.0) or 1.0
    dots = []
    for number, (across, up) in enumerate(curve.points):
        if not (math.isfinite(across) and math.isfinite(up)):
            continue
        weight = curve.weights[number] if number < len(curve.weights) else None
        radius = _SMALL_DOT if weight is None else _SMALL_DOT + (_LARGE_DOT - _SMALL_DOT) * math.sqrt(weight / most)
        rows = "" if weight is None else f", {weight:,.0f} rows"
        dots.append(Dot(x.at(across), y.at(up), round(radius, 2), f"{across:.3g}, {up:.3g}{rows}"))
    return tuple(dots)


@dataclass(frozen=True)
class Standing:
    """One line of the chart that compares a score with others."""

    name: str
    value: float
    at: float
    low: float | None = None
    high: float | None = None
    main: bool = False


@dataclass(frozen=True)
class Standings:
    """A score with its interval and the scores that it is compared with, on one axis."""

    axis: Axis
    lines: tuple[Standing, ...]


def standings(
    score: float, bounds: tuple[float, float] | None, others: Sequence[tuple[str, float]], name: str
) -> Standings:
    """Place the scores on an axis from 0 to 100, in percent of the chart's width."""
    values = [score, *(bounds or ()), *(value for _, value in others)]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    left, right = low - margin, high + margin
    if low >= 0 and high <= 1:
        left, right = max(0.0, left), min(1.0, right)
    axis = Axis(left, right, 0, 100)
    ends: tuple[float | None, float | None] = (axis.at(bounds[0]), axis.at(bounds[1])) if bounds else (None, None)
    first = Standing(name, score, axis.at(score), ends[0], ends[1], main=True)
    return Standings(axis, (first, *(Standing(other, value, axis.at(value)) for other, value in others)))


@dataclass(frozen=True)
class IntervalsView:
    """Values with their intervals on one axis, in percent of the chart's width."""

    axis: Axis
    lines: tuple[Standing, ...]
    zero: float | None = None
    """The place of 0, where the values are differences."""


def interval_view(
    values: Sequence[tuple[str, float, tuple[float, float] | None]], *, zero: bool = False
) -> IntervalsView:
    """Place values and their intervals on an axis; one of differences holds 0."""
    ends = [end for _, value, bounds in values for end in (value, *(bounds or ()))] + [0.0] * zero
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    left, right = low - margin, high + margin
    if not zero and low >= 0 and high <= 1:
        left, right = max(0.0, left), min(1.0, right)
    axis = Axis(left, right, 0, 100)
    lines = []
    for name, value, bounds in values:
        places: tuple[float | None, float | None] = (axis.at(bounds[0]), axis.at(bounds[1])) if bounds else (None, None)
        lines.append(Standing(name, value, axis.at(value), *places))
    return IntervalsView(axis, tuple(lines), axis.at(0.0) if zero else None)
