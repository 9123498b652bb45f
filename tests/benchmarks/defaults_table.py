"""The page of defaults: the values in force, those tried on held-out training rows, and scores on rows that chose
nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from regraft.contracts import Method, TrainingFacts

_ROWS = (100, 1000, 10_000)
"""Numbers of training rows that epochs are shown for."""
_EPOCHS = (
    "Epochs are for batches of 32: they aim at a number of steps. `bitfit` and `ia3` have the values of `lora`,\n"
    "`gradual-unfreezing` those of `full`; `lp-ft` has the steps of `feature-extraction` and of `full` together.\n"
    "These four were not tuned."
)
NEAR = 0.02
"""How far below the search a default may score."""


def page(lines: Sequence[Mapping[str, Any]], sets: Sequence[str], methods: Sequence[str]) -> str:
    """Return the page as Markdown."""
    return "\n".join(
        [
            "# Defaults of training",
            "",
            "Made by `python tests/benchmarks/defaults.py table` from the methods and that benchmark's finished cells.",
            "",
            *_in_force(),
            *_developed([line for line in lines if line["stage"] == "develop"]),
            *_judged(lines),
            *_open_cells(lines, sets, methods),
        ]
    )


def _in_force() -> list[str]:
    """Return the table of the values that methods state."""
    text = [
        "## The values of `auto`",
        "",
        "`training.lr`, `head_factor`, `epochs` and `warmup` are `auto` unless they are written. The method states the",
        "values for the rows at hand; a run says at its start what was chosen, and stores it. Beside a written `lr`,",
        "`head_factor` is 1. `regraft show methods NAME` shows the values of one method, a plugin's too.",
        "",
        "| method | rows are | lr | head_factor | warmup | epochs for "
        + ", ".join(f"{n:,}" for n in _ROWS)
        + " rows |",
        "|---|---|---|---|---|---|",
    ]
    for name in Method.names():
        method = Method.lookup(name)
        if method.closed_form:
            continue
        for kind, tokens in (("tokens", True), ("pictures", False)):
            found = [method().defaults(TrainingFacts(rows, 32, tokens=tokens)) for rows in _ROWS]
            one, epochs = found[0], ", ".join(str(values.epochs) for values in found)
            text.append(f"| {name} | {kind} | {one.lr:g} | {one.head_factor:g} | {one.warmup:g} | {epochs} |")
    return [*text, "", _EPOCHS, ""]


def _developed(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of values that were tried; the best of a set and method is bold."""
    text = [
        "## Values tried on a quarter of the training rows",
        "",
        "At most 800 training rows, one seed; the score after the last step. One standard error is 2 to 5 points.",
        "Of values that are closer than that, one that does well on all sets was taken. For whole weights on pictures",
        "the smallest was taken, though pneumonia does better with more: the base here is a MobileNet, transformers",
        "take less.",
        "",
        "| rows | method | score | learning rate x factor of the head: score |",
        "|---|---|---|---|",
    ]
    for (rows, method), group in sorted(_grouped(lines).items()):
        best = max(line["series"][-1] for line in group)
        tried = ", ".join(
            _tried(line["training"])
            + (f"**{line['series'][-1]:.3f}**" if line["series"][-1] == best else f"{line['series'][-1]:.3f}")
            for line in group
        )
        text.append(f"| {rows} | {method} | {group[0]['score']} | {tried} |")
    return [*text, ""]


def _tried(training: Mapping[str, Any]) -> str:
    """Return the values that were tried, as `0.001 x 3: `."""
    steps = f" ({training['steps']} steps)" if "steps" in training else ""
    return f"{training['lr']:g} x {training['head_factor']:g}{steps}: "


def _judged(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of defaults beside the best baseline and the search."""
    defaults = _grouped([line for line in lines if line["stage"] == "defaults"])
    searched = {(line["rows"], line["method"]): line["test"] for line in lines if line["stage"] == "search"}
    if not defaults:
        return []
    text = [
        "## Defaults on rows that chose nothing",
        "",
        "No training key but the seed; the score after the last epoch. `below` counts seeds that are below the best",
        "baseline by more than half the width of the 95 % interval of their difference. `near`: within 2 points of a",
        "search of six trials, chosen on held-out training rows. The rows that judge chose none of the values above.",
        "",
        "| rows | method | score | seeds | mean (least) | best baseline | below | search | near |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (rows, method), group in sorted(defaults.items()):
        score, values = group[0]["score"], [line["series"][-1] for line in group]
        floor, found = _floor(group), searched.get((rows, method))
        below = sum(_is_below(line) for line in group)
        near = "-" if found is None else "yes" if mean(values) >= found - NEAR else "**no**"
        text.append(
            f"| {rows} | {method} | {score} | {len(values)} | {mean(values):.3f} ({min(values):.3f}) "
            f"| {f'{floor:.3f}' if floor is not None else '-'} | {f'**{below} of {len(values)}**' if below else 'no'} "
            f"| {f'{found:.3f}' if found is not None else 'not done'} | {near} |"
        )
    return [*text, ""]


def _floor(group: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the score of the best baseline."""
    found = [b.get(line["score"]) for line in group for b in (line["baselines"] or {}).values()]
    return max((value for value in found if value is not None), default=None)


def _is_below(line: Mapping[str, Any]) -> bool:
    """Return whether a run's last score is below the best baseline beyond the interval of their difference.

    The recorded interval is that of the best evaluation; without one, any difference counts.
    """
    floor, gain = _floor([line]), line["gain"]
    half = gain["mean"] - gain["low"] if gain else 0.0
    return floor is not None and bool(line["series"][-1] + half < floor)


def _open_cells(lines: Sequence[Mapping[str, Any]], sets: Sequence[str], methods: Sequence[str]) -> list[str]:
    """Return which sets and methods have no figure yet, by stage."""
    text = ["## Not measured yet", ""]
    for stage, what in (
        ("develop", "Values tried"),
        ("defaults", "Defaults on rows that chose nothing"),
        ("search", "Search"),
    ):
        done = {(line["rows"], line["method"]) for line in lines if line["stage"] == stage}
        left = {method: [name for name in sets if (name, method) not in done] for method in methods}
        named = "; ".join(f"{method}: {', '.join(names)}" for method, names in left.items() if names)
        without = f" Without: {named}." if named else ""
        text.append(f"- {what}: {len(done)} of {len(sets) * len(methods)} cells.{without}")
    return [*text, ""]


def _grouped(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return lines by their set and method."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["rows"], line["method"]), []).append(line)
    return groups
