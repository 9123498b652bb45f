"""`regraft evaluate`: measure a model on labelled rows, with a page and a summary."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.episodes import episode_options, show_episodes
from regraft.cli.metric_table import values_of
from regraft.cli.models import chosen, registry_of
from regraft.cli.screen import Reply, Screen, figure
from regraft.cli.several_models import show_several
from regraft.contracts import Event, Resampled, RowsEvaluated
from regraft.errors import RequestError
from regraft.evaluation.options import EvaluationOptions, folder_of
from regraft.units import seconds_text

if TYPE_CHECKING:
    from regraft.evaluation.episodes import EpisodesResult
    from regraft.evaluation.evaluate import EvaluationResult

_QUIET_S = 2.0
_EVERY_S = 5.0
_COUNTS = ("rows", "support", "true boxes", "pixels")
"""Columns with the evaluation rows of a class; a class without any is not the worst."""
_CLASSES = frozenset({"label", "class", "type", "tag"})
"""Names of the first column of a table by class."""
_JUDGED_BY = ("f1", "iou", "ap", "recall", "accuracy")
"""Columns that may decide which class is worst; the first one that a table has does."""


def evaluate(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `evaluate` command."""
    registry = registry_of(args)
    versions = [str(chosen(registry, model)) for model in args.models]
    version, several = versions[0], len(versions) > 1
    if several and (args.against or episode_options(args) is not None):
        raise RequestError(
            "several models are compared by themselves: leave --against and the options of episodes out, or name one "
            "model",
            where="evaluate",
        )
    options = EvaluationOptions(
        output=folder_of(versions, args.data, args.output),
        columns=columns_of(args.columns),
        format=args.format,
        bad_rows=args.bad_rows,
        resamples=args.resamples,
        seconds=args.seconds,
        worst=args.worst,
        against=args.against,
        plugins=args.plugins,
        base=args.base,
        device=args.device,
        episodes=episode_options(args),
    )
    if options.episodes is not None:
        found: EpisodesResult = function(WORK["evaluate episodes"])(
            registry.store, version, args.data, options=options, progress=_EvaluationLog(screen)
        )
        return show_episodes(found, screen, registry.store.url)
    if several:
        compared: EvaluationResult = function(WORK["evaluate several"])(
            registry.store, versions, args.data, options=options, progress=_EvaluationLog(screen)
        )
        return show_several(compared, screen, registry.store.url)
    evaluated: EvaluationResult = function(WORK["evaluate"])(
        registry.store, version, args.data, options=options, progress=_EvaluationLog(screen)
    )
    _summary(evaluated, screen)
    paths = {"json": str(evaluated.json), "html": str(evaluated.html)}
    return Reply({**_brief(evaluated.document), **paths, "store": registry.store.url})


def columns_of(written: list[str]) -> dict[str, str]:
    """Parse `["text=review", "label=stars"]`, or both in one string with a comma, into a mapping."""
    found = {}
    for pair in (part for item in written for part in item.split(",")):
        name, equals, column = pair.partition("=")
        if not (name.strip() and equals and column.strip()):
            raise RequestError(
                f"{pair!r} is written; allowed is COLUMN=NAME-IN-THE-FILE, as in text=review", "--columns"
            )
        found[name.strip()] = column.strip()
    return found


def _brief(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of `--json`: all numbers, without the tables and rows that the files hold."""
    return {key: value for key, value in document.items() if key not in ("findings", "worst", "format", "labels")}


class _EvaluationLog:
    """Progress lines, at most one every five seconds and none in the first two."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._next = time.monotonic() + _QUIET_S

    def __call__(self, event: Event) -> None:
        if time.monotonic() < self._next:
            return
        match event:
            case RowsEvaluated():
                text = f"{event.what}: {event.rows:,} of {event.of:,} rows"
            case Resampled():
                text = f"intervals: {event.resamples:,} of {event.of:,} resamples"
            case _:
                return
        self._next = time.monotonic() + _EVERY_S
        self._screen.note(text)


def _summary(evaluated: EvaluationResult, screen: Screen) -> None:
    document = evaluated.document
    score, bounds = document["score"]["name"], document["intervals"].get(document["score"]["name"])
    interval = f"  (95 % interval {figure(bounds['low'])} to {figure(bounds['high'])})" if bounds else ""
    rows: list[tuple[str, object]] = [(score, f"{figure(document['metrics'][score])}{interval}")]
    if (trained := document["recorded"]["metrics"].get(score)) is not None:
        rows.append(("at training", figure(trained)))
    for name, baseline in document["recorded"]["baselines"].items():
        if (value := values_of(baseline, score).get(score)) is not None:
            rows.append((name.replace("_", " "), figure(value)))
    if against := document.get("against"):
        rows.append((f"{against['model']}@{against['version']}", _comparison(against, score)))
    if weakest := worst_class(document["findings"]):
        rows.append(("worst class", weakest))
    skipped = document["data"]["skipped"].get("count", 0)
    rows.append(("rows", f"{document['data']['rows']:,}{f', {skipped:,} left out' if skipped else ''}"))
    rows.append(("time", seconds_text(document["seconds"])))
    rows.append(("report", shlex.quote(str(evaluated.html))))
    screen.say(Text.assemble((f"{document['model']}@{document['version']}", "bold green"), " is evaluated"))
    screen.facts(rows)
    for text in document.get("notes", ()):
        screen.say(text)


def _comparison(against: Mapping[str, Any], score: str) -> str:
    bounds = against["intervals"].get(score)
    difference = f"; the difference {against['difference'][score]:+.4f}"
    interval = f", 95 % interval {bounds['low']:+.4f} to {bounds['high']:+.4f}" if bounds else ""
    return f"{figure(against['metrics'][score])}{difference}{interval}"


def worst_class(findings: Mapping[str, Any]) -> str:
    """Return `other (f1 0.8293)`: the class with the lowest score in the first table by class; empty without one.

    A class without evaluation rows has no score.
    """
    for table in findings["tables"]:
        names = [str(column).lower() for column in table["columns"]]
        judge = next((names.index(name) for name in _JUDGED_BY if name in names), None)
        if judge is None or names[0] not in _CLASSES:
            continue
        count = next((names.index(name) for name in _COUNTS if name in names), None)
        measured = [row for row in table["rows"] if count is None or row[count]]
        known = [(row[judge], str(row[0])) for row in measured if isinstance(row[judge], float)]
        if len(known) > 1:
            value, name = min(known)
            return f"{name} ({names[judge]} {figure(value)})"
    return ""
