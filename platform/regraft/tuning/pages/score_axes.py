"""Axes whose y axis is the deciding metric: their limits, and trials drawn as dots with tooltips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from regraft.report.svg import COLOURS, Canvas
from regraft.tuning.pages.by_depth import ended, value
from regraft.tuning.pages.words import tooltip
from regraft.tuning.records import TrialRecord

_FAR, _NEAR = 4.0, 1.7
"""Largest height of the axes, in units of the usual range: without `least`, and with it."""
_DOT, _LARGE = 16, 46
"""Areas of a dot and of a best trial's dot, in square points."""


@dataclass(frozen=True)
class ScoreAxes:
    """Axes on a canvas whose y axis is the deciding metric."""

    canvas: Canvas
    axes: Axes
    score: Mapping[str, str]
    """{name, mode} of the metric."""

    @property
    def sign(self) -> float:
        """1 if larger is better, else -1."""
        return 1.0 if self.score["mode"] == "max" else -1.0

    def height_of(self, trial: TrialRecord) -> float:
        """Return the trial's best result; 0 if it has none."""
        found = value(trial.best, self.score["name"])
        return 0.0 if found is None else found

    def limit(self, values: Sequence[float], *, least: float | None = None) -> None:
        """Fit the y limits to the values, except for outliers so bad that the others would look alike.

        The usual range reaches from the best value to `least`, or over the best three quarters of the values. A value
        is an outlier when it is more than _NEAR (with `least`) or _FAR times that range below the best.
        """
        ordered = sorted(values, key=lambda height: -self.sign * height)
        best, worst = ordered[0], ordered[-1]
        usual = abs(best - (ordered[(3 * (len(ordered) - 1)) // 4] if least is None else least))
        far = _FAR if least is None else _NEAR
        if usual and abs(best - worst) > far * usual:
            edge = self.sign * best - far * usual
            within = (height for height in ordered if self.sign * height >= edge)
            worst = min(within, key=lambda height: self.sign * height)
        margin = 0.06 * abs(best - worst) or 0.05 * abs(best) or 0.5
        self.axes.set_ylim(min(best, worst) - margin, max(best, worst) + margin)
        self.axes.yaxis.set_major_locator(MaxNLocator(5))

    def dots(self, mark: str, placed: Sequence[tuple[float, TrialRecord]], *, best: bool = False) -> None:
        """Draw (x, trial) pairs as dots, unfinished trials as rings, those beyond the limits as triangles."""
        low, high = self.axes.get_ylim()
        groups: dict[str, list[tuple[float, TrialRecord]]] = {"whole": [], "unfinished": [], "beyond": []}
        for place, trial in placed:
            within = low <= self.height_of(trial) <= high
            groups["beyond" if not within else "whole" if ended(trial) else "unfinished"].append((place, trial))
        for name, group in groups.items():
            self.axes.scatter(
                [place for place, _ in group],
                [min(max(self.height_of(trial), low), high) for _, trial in group],
                s=_LARGE if best else _DOT,
                facecolors="none" if name == "unfinished" else COLOURS["right"],
                edgecolors=COLOURS["right"],
                alpha=1.0 if best else 0.5,
                linewidths=(1.6 if best else 0.8) if name == "unfinished" else 0,
                marker=("v" if self.sign > 0 else "^") if name == "beyond" else "o",
                clip_on=False,
                zorder=4 if best else 3,
                gid=self.canvas.label(f"{mark}-{name}", [tooltip(trial, self.score) for _, trial in group]),
            )
