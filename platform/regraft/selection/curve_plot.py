"""The picture of a data curve: measured shares, random weights, and the law with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.report.svg import COLOURS, Canvas, Picture, picture, plain


def curve_picture(curve: Mapping[str, Any]) -> Picture:
    """Draw the score by labelled rows, up to twice as many as there are."""
    points, law = curve["points"], curve["law"]

    def draw(canvas: Canvas) -> None:
        axes = canvas.figure.subplots()
        rows = [one["rows"] for one in law]
        axes.fill_between(
            rows, [one["low"] for one in law], [one["high"] for one in law], color=COLOURS["right"], alpha=0.15, lw=0
        )
        axes.plot(rows, [one["value"] for one in law], color=COLOURS["right"], linewidth=1.2)
        measured = [one["rows"] for one in points]
        axes.plot(measured, [one["adapted"] for one in points], "o", color=COLOURS["right"], markersize=4.5)
        if "random" in points[0]:
            heights = [one["random"] for one in points]
            axes.plot(measured, heights, marker="o", color=COLOURS["soft"], linewidth=1.2, markersize=3.5)
            axes.annotate(
                "random weights",
                (measured[-1], heights[-1]),
                xytext=(0, -12),
                textcoords="offset points",
                ha="center",
                color=COLOURS["soft"],
            )
        axes.set_xscale("log")
        ticks = [*measured, rows[-1]]
        axes.set_xticks(ticks, [f"{round(one):,}" for one in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labelled rows")
        plain(axes, "score of a linear head")
        width, height = canvas.figure.get_size_inches()
        canvas.figure.subplots_adjust(
            left=0.5 / width, right=1 - 0.2 / width, top=1 - 0.3 / height, bottom=0.5 / height
        )

    return picture("curve", "score by labelled rows, with the law's interval", draw, wide=(10, 3.2), narrow=(3.2, 2.8))
