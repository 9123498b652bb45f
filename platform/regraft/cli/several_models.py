"""The summary of `regraft evaluate` with several models."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.screen import Reply, Screen, figure
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.evaluation.evaluate import EvaluationResult


def show_several(evaluated: EvaluationResult, screen: Screen, store: str) -> Reply:
    """Show the score of each model, and the first model's difference from each other."""
    document = evaluated.document
    score, models = document["score"]["name"], document["models"]
    names = [f"{one['model']}@{one['version']}" for one in models]
    screen.say(Text.assemble((f"{len(models)} models", "bold green"), " are evaluated on the same rows"))
    columns = (
        "  model",
        score,
        "95 % interval",
        f"{names[0]} minus it",
        "95 % interval, all together",
        f"{names[0]} is",
    )
    rows = [(f"  {names[0]}", *_score(models[0], score), "", "", "")]
    for one, difference in zip(models[1:], document["differences"], strict=True):
        rows.append((f"  {difference['model']}", *_score(one, score), *_difference(difference)))
    screen.table(columns, rows)
    skipped = document["data"]["skipped"].get("count", 0)
    screen.facts(
        [
            ("rows", f"{document['data']['rows']:,}{f', {skipped:,} left out' if skipped else ''}"),
            ("time", seconds_text(document["seconds"])),
            ("report", shlex.quote(str(evaluated.html))),
        ]
    )
    for name, one in zip(names, models, strict=True):
        if one["overlap"]["train"]:
            screen.say(f"{name}: {one['overlap']['sentence']}")
    if document["bootstrap"]["note"]:
        screen.say(f"{document['bootstrap']['note']}.")
    return Reply({**document, "json": str(evaluated.json), "html": str(evaluated.html), "store": store})


def _score(one: Mapping[str, Any], score: str) -> tuple[str, str]:
    ends = one["interval"]
    return figure(one["metrics"][score]), f"{figure(ends['low'])} to {figure(ends['high'])}" if ends else ""


def _difference(one: Mapping[str, Any]) -> tuple[str, str, str]:
    bounds = "" if one["low"] is None else f"{one['low']:+.4f} to {one['high']:+.4f}"
    return f"{one['difference']:+.4f}", bounds, str(one["first_is"])
