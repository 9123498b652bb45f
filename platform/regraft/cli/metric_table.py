"""A model's metrics as text: beside the baselines', with the interval of the gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.cli.screen import figure
from regraft.store.comparisons import control_name
from regraft.units import counted

TableRows = tuple[tuple[str, ...], list[tuple[str, ...]]]


def values_of(baseline: object, score: str | None) -> dict[str, Any]:
    """Return a baseline's metrics; old documents hold only the value of the deciding one."""
    return dict(baseline) if isinstance(baseline, Mapping) else {str(score): baseline}


def gained(gain: Mapping[str, Any] | None) -> str:
    """Return `+0.0500 over nearest centroid, 95 % interval +0.0200 to +0.0800`; empty without a measured gain.

    An interval that contains 0 is pointed out: the gain may be none.
    """
    if not gain:
        return ""
    over = str(gain.get("over", "nearest_centroid")).replace("_", " ")
    verdict = "; not distinguishable from none" if gain["low"] <= 0 <= gain["high"] else ""
    verdict = "; worse than that baseline" if gain["high"] < 0 else verdict
    return f"{gain['mean']:+.4f} over {over}, 95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}{verdict}"


def table(meta: Mapping[str, Any]) -> TableRows:
    """Return a version's metrics beside the baselines', the deciding one first, as columns and rows."""
    metrics, score = meta["metrics"], meta.get("score", {}).get("name")
    baselines = {name: values_of(value, score) for name, value in (meta.get("baselines") or {}).items()}
    names = sorted(metrics, key=lambda name: (name != score, name))
    columns = ("  metric", "this version", *(name.replace("_", " ") for name in baselines))
    rows: list[tuple[str, ...]] = []
    for name in names:
        others = (figure(values[name]) if name in values else "" for values in baselines.values())
        rows.append((f"  {name}", figure(metrics[name]), *others))
    return columns, rows


def on_test(test: Mapping[str, Any] | None, score: str | None) -> list[tuple[str, str]]:
    """Return the deciding metric on the test rows with its interval, as a row; none without test rows."""
    metrics = (test or {}).get("metrics") or {}
    if not test or score not in metrics:
        return []
    ends = (test.get("intervals") or {}).get(score)
    interval = f"95 % interval {figure(ends['low'])} to {figure(ends['high'])}, " if ends else ""
    return [(f"test {score}", f"{figure(metrics[score])}  ({interval}{counted(int(test.get('rows', 0)), 'row')})")]


def of_test_rows(test: Mapping[str, Any], score: str | None) -> TableRows:
    """Return all metrics on the test rows with their intervals, the deciding one first, as columns and rows."""
    metrics, intervals = test["metrics"], test.get("intervals") or {}
    rows: list[tuple[str, ...]] = []
    for name in sorted(metrics, key=lambda name: (name != score, name)):
        bounds = " to ".join(figure(end) for end in intervals.get(name, {}).values())
        rows.append((f"  {name}", figure(metrics[name]), bounds))
    return ("  metric", f"{counted(int(test.get('rows', 0)), 'test row')}, once", "95 % interval"), rows


def of_controls(comparison: Mapping[str, Any]) -> TableRows:
    """Return the score of each control, the version's score minus it, and the verdict, as columns and rows."""
    rows: list[tuple[str, ...]] = []
    for one in comparison.get("controls") or ():
        low, high = one.get("low"), one.get("high")
        bounds = "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
        value, difference = (figure(one[key]) if one.get(key) is not None else "" for key in ("value", "difference"))
        rows.append((f"  {control_name(str(one.get('name')))}", value, difference, bounds, str(one.get("outcome"))))
    score = str((comparison.get("score") or {}).get("name", "score"))
    return ("  control", score, "this version minus it", "95 % interval", "this version is"), rows
