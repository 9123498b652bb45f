"""The page of measured defaults: values tried on held-out training rows, and scores on rows that chose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [
            "# Learning rates, measured",
            "",
            "Made by `python tests/benchmarks/defaults.py table` from the finished cells of that benchmark.",
            "",
            *_developed([line for line in lines if line["stage"] == "develop"]),
            *_judged(lines),
        ]
    )


def _developed(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of values that were tried; the best of a set and method is bold."""
    text = [
        "## Values tried on a quarter of the training rows",
        "",
        "At most 800 training rows, one seed; the score after the last step. One standard error is 1 to 4 points.",
        "",
        "| rows | method | score | learning rate x factor of the head: score |",
        "|---|---|---|---|",
    ]
    for (rows, method), group in sorted(_grouped(lines).items()):
        best = max(line["series"][-1] for line in group)
        tried = ", ".join(
            f"{line['training']['lr']:g} x {line['training']['head_factor']:g}: "
            + (f"**{line['series'][-1]:.3f}**" if line["series"][-1] == best else f"{line['series'][-1]:.3f}")
            for line in group
        )
        text.append(f"| {rows} | {method} | {group[0]['score']} | {tried} |")
    return [*text, ""]


def _judged(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of defaults beside the best baseline and the search."""
    defaults = _grouped([line for line in lines if line["stage"] == "defaults"])
    searched = {(line["rows"], line["method"]): line["test"] for line in lines if line["stage"] == "search"}
    if not defaults:
        return []
    text = [
        "## Defaults on rows that chose nothing",
        "",
        "No training key but the seed; the score after the last epoch.",
        "",
        "| rows | method | score | seeds | mean (least) | best baseline | a search of six trials |",
        "|---|---|---|---|---|---|---|",
    ]
    for (rows, method), group in sorted(defaults.items()):
        score, values = group[0]["score"], [line["series"][-1] for line in group]
        floor = [b[score] for line in group for b in (line["baselines"] or {}).values() if b.get(score) is not None]
        found = searched.get((rows, method))
        text.append(
            f"| {rows} | {method} | {score} | {len(values)} | {mean(values):.3f} ({min(values):.3f}) "
            f"| {f'{max(floor):.3f}' if floor else '-'} | {f'{found:.3f}' if found is not None else 'not done'} |"
        )
    return [*text, ""]


def _grouped(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return lines by their set and method."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["rows"], line["method"]), []).append(line)
    return groups
