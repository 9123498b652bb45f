"""`regraft evaluate --episodes`: measure a model's features on few examples of classes that it need not know."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.screen import Reply, Screen, figure
from regraft.errors import RequestError
from regraft.evaluation.options import EpisodeOptions
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.evaluation.episodes import EpisodesResult

_OPTIONS = ("episodes", "way", "shot", "query")


def episode_options(args: argparse.Namespace) -> EpisodeOptions | None:
    """Return the options of episodes; None where none is written. Raises RequestError for what makes no episode."""
    if not args.cosine and all(getattr(args, name) is None for name in _OPTIONS):
        return None
    if args.against is not None:
        raise RequestError("is not for episodes: evaluate each model by itself, on the same ones", "--against")
    written = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    for name, value in written.items():
        if value < (least := 2 if name == "way" else 1):
            raise RequestError(f"{value} is written; allowed is a whole number from {least} on", f"--{name}")
    return EpisodeOptions(**written, cosine=args.cosine)


def show_episodes(evaluated: EpisodesResult, screen: Screen, store: str) -> Reply:
    """Print the table of a few-shot evaluation, and return its reply."""
    document = evaluated.document
    drawn, data = document["episodes"], document["data"]
    rows: list[tuple[str, object]] = [
        ("accuracy", _with_interval(document)),
        ("chance", figure(document["chance"])),
        (
            "episodes",
            f"{drawn['episodes']:,}: {drawn['way']} way, {drawn['shot']} shot, {drawn['query']} query rows at most",
        ),
        ("nearest mean by", "direction (cosine)" if drawn["cosine"] else "distance"),
        ("rows", f"{data['rows']:,} of {data['classes'] + len(data['classes_left_out'])} classes"),
        ("time", seconds_text(document["seconds"])),
        ("file", shlex.quote(str(evaluated.json))),
    ]
    screen.say(Text.assemble((f"{document['model']}@{document['version']}", "bold green"), " is evaluated on episodes"))
    screen.facts(rows)
    for text in document["notes"]:
        screen.say(text)
    brief = {name: value for name, value in document.items() if name not in ("accuracies", "format", "labels")}
    return Reply({**brief, "json": str(evaluated.json), "store": store})


def _with_interval(document: dict[str, Any]) -> str:
    mean, bounds = document["metrics"]["accuracy"], document["intervals"].get("accuracy")
    if bounds is None:
        return figure(mean)
    interval = f"95 % interval {figure(bounds['low'])} to {figure(bounds['high'])}"
    return f"{figure(mean)} +- {figure(bounds['high'] - mean)}  ({interval})"
