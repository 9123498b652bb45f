"""`regraft auto`: from data alone to a registered model, its page, and the spec that repeats it."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from regraft.cli.dispatch import WORK, function
from regraft.cli.evaluate import columns_of
from regraft.cli.metric_table import on_test
from regraft.cli.predict import parse_format
from regraft.cli.screen import Reply, Screen, figure, store_of
from regraft.cli.signals import ended_by_signals
from regraft.contracts import EvaluationDone, Event, Note, Progress, RowsEvaluated, Stepped, TrialUpdated, TrunkProgress
from regraft.spec.document import absolute
from regraft.spec.written_bases import bases_of
from regraft.store.comparisons import comparison_texts
from regraft.store.objects import open_store
from regraft.units import counted, seconds_text

if TYPE_CHECKING:
    from regraft.automatic.outcome import AutoOutcome

_EVERY_S = 5.0
_SHOWN = 6
"""Trials in the summary; the page and --json have all."""


def auto(args: argparse.Namespace, screen: Screen) -> Reply:
    """Run the `auto` command."""
    store = store_of(args.store)
    if args.create and not store.startswith("s3://"):  # a prefix needs no asking
        open_store(absolute(store)).create()
    with ended_by_signals(), following(screen) as progress:
        outcome: AutoOutcome = function(WORK["auto"])(
            args.data,
            task=args.task,
            bases=bases_of(args.bases),
            budget=args.budget,
            store=store,
            name=args.name,
            columns=columns_of(args.columns),
            format=parse_format(args.format),
            plugins=args.plugins,
            progress=progress,
        )
    show_result(outcome, screen)
    _show_next(outcome, screen)
    return Reply(outcome.document())


@contextmanager
def following(screen: Screen) -> Iterator[Progress]:
    """Yield a sink that writes what is concluded, and every few seconds what goes on."""
    yield _WorkUnderWay(screen)


class _WorkUnderWay:
    """Writes notes at once, and steps, trials and rows at most every five seconds."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._started = time.monotonic()
        self._next = self._started + _EVERY_S

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self._screen.note(event.message)
        elif (text := _going_on(event)) and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            self._screen.note(f"  {seconds_text(time.monotonic() - self._started)}: {text}")


def _going_on(event: Event) -> str:
    """Return what an event says of the work under way; empty for events of which nothing is written."""
    if isinstance(event, Stepped):
        return f"step {event.step:,} of {event.steps or 0:,}" + (f", loss {event.loss:.4g}" if event.loss else "")
    if isinstance(event, EvaluationDone):
        return f"epoch {event.epoch:.4g} is evaluated"
    if isinstance(event, TrialUpdated):
        settings = ", ".join(f"{name} {value}" for name, value in event.overrides.items())
        return f"trial {event.id} ({settings}), epoch {event.epoch or 0:.4g}"
    if isinstance(event, TrunkProgress):
        return f"frozen part: {event.rows:,} of {event.total:,} rows"
    if isinstance(event, RowsEvaluated):
        return f"{event.what}: {event.rows:,} of {event.of:,} rows"
    return ""


def show_result(outcome: AutoOutcome, screen: Screen) -> None:
    """Show what was registered, its score on rows that chose nothing, its controls, and what was tried."""
    screen.say()
    state = "was made before" if outcome.already else "is registered"
    screen.say(Text.assemble((f"{outcome.model}@{outcome.version}", "bold green"), f" {state}"))
    score = outcome.score
    screen.facts(
        [
            *on_test(outcome.test, score),
            (f"chosen by {score}", figure(outcome.metrics.get(score))),
            ("task", outcome.task),
            ("base", outcome.base),
            ("method", outcome.method["type"]),
            ("time", seconds_text(outcome.seconds)),
            ("store", outcome.store),
            ("page", outcome.page),
            ("spec", outcome.spec),
        ]
    )
    screen.head("trials")
    rows: list[list[object]] = [
        [f"  {one['method']}", settings_text(one["settings"]), figure(one["value"]), seconds_text(one["seconds"])]
        for one in outcome.trials[:_SHOWN]
    ]
    screen.table(["  method", "settings", score, "time"], rows)
    if len(outcome.trials) > _SHOWN:
        screen.say(f"  and {counted(len(outcome.trials) - _SHOWN, 'other trial')}")
    for one in outcome.left_out:
        screen.say(f"  {one['method']} was not tried: {one['why']}")
    for text in (*comparison_texts(outcome.comparison), outcome.verdicts, outcome.advice):
        if text:
            screen.say(text)


def settings_text(settings: Mapping[str, object]) -> str:
    """Return the settings of a trial by the last part of their names: `depth 50%, lr 0.001`."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items())


def _show_next(outcome: AutoOutcome, screen: Screen) -> None:
    elsewhere = absolute(store_of(None)) != outcome.store
    store = f" --store {shlex.quote(outcome.store)}" if elsewhere else ""
    screen.say("next")
    screen.say(f"  regraft models show {outcome.model}@{outcome.version}{store}")
    screen.say(f"  regraft train {shlex.quote(outcome.spec)} --store NEW-STORE repeats it")
