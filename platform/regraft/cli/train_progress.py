"""A training run as it goes: a live line on a terminal, sparse plain lines anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from regraft.cli.jobs import events
from regraft.cli.screen import Screen, figure, size, span

_SPARSE_S = 10.0
"""Seconds between the step lines of a log: a run of hours stays readable, one of a minute still shows life."""

Sink = Callable[[Mapping[str, Any]], None]


def following(screen: Screen) -> contextlib.AbstractContextManager[Sink]:
    """A sink for progress events that suits where they are shown."""
    return shown(screen, Lines, Live)


@contextlib.contextmanager
def shown(
    screen: Screen,
    lines: Callable[[Screen], Sink],
    live: Callable[[Screen], contextlib.AbstractContextManager[Sink]],
) -> Iterator[Sink]:
    """Marked lines in a submitted job, plain ones away from a terminal, a display that moves on one."""
    if events.wanted():
        yield events.progress
        return
    if not screen.terminal:
        yield lines(screen)
        return
    with live(screen) as sink:
        yield sink


class Lines:
    """Plain lines: the start, every evaluation, and a step every ten seconds."""

    def __init__(self, screen: Screen, *, every_s: float = _SPARSE_S) -> None:
        self._screen = screen
        self._every_s = every_s
        self._shown = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            if time.monotonic() - self._shown < self._every_s:
                return
            self._shown = time.monotonic()
            self._screen.note(f"{event.get('unit', 'step')} {event['step']}/{event['steps']}  {step_text(event)}")
        elif (text := line_of(event, verbose=self._screen.verbose)) is not None:
            self._screen.note(text)


class Live:
    """One line that moves, and what should stay readable printed above it; it is gone when the run is over."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._metric = ""
        self._progress = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            # A console of its own: the screen's does not cut lines, and a live line that wraps leaves its tail behind.
            console=Console(file=screen.stream, highlight=False),
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("preparing base, data and workers", total=None)

    def __enter__(self) -> Live:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if (text := line_of(event, verbose=self._screen.verbose)) is not None:
            self._progress.console.print(text, markup=False)
        if kind == "start":
            self._progress.update(self._task, total=event["steps"], description="first step")
        elif kind == "baseline":
            self._progress.update(self._task, description="measuring baselines")
        elif kind == "trunk":
            text = f"frozen part, {event['rows']:,} of {event['total']:,} rows"
            self._progress.update(self._task, description=text)
        elif kind == "resume":
            self._progress.update(self._task, completed=event["step"])
        elif kind == "eval":
            self._metric = f"  {_metrics(event['metrics'], most=1)}"
        elif kind == "step":
            text = f"{event.get('unit', '')} {event['step']}/{event['steps']}  {step_text(event, metric=self._metric)}"
            self._progress.update(self._task, completed=event["step"], total=event["steps"], description=text.lstrip())


def step_text(event: Mapping[str, Any], *, metric: str = "") -> str:
    """`epoch 1.2  loss 0.4321  312 rows/s  12 s left`; what an event lacks is left out."""
    parts = [f"epoch {float(event['epoch']):.1f}"] if event.get("epoch") is not None else []
    parts += [f"loss {figure(float(event['loss']))}{metric}"] if event.get("loss") is not None else []
    parts += [f"{event['rows_per_second']:.0f} rows/s"] if event.get("rows_per_second") is not None else []
    parts += [f"{span(event['left_s'])} left"] if event.get("left_s") is not None else []
    return "  ".join(parts)


def line_of(event: Mapping[str, Any], *, verbose: bool = False) -> str | None:
    """The line that an event leaves; None for one that leaves none."""
    match event["event"]:
        case "start":
            return _start(event)
        case "resume":
            return f"continues at step {event['step']} from {event['checkpoint']}"
        case "note":
            return str(event["message"])
        case "baseline":
            return f"baseline {str(event['name']).replace('_', ' ')}: {_metrics(event['metrics'])}"
        case "eval":
            best = "  best so far" if event.get("best") else ""
            epoch = event["epoch"] if not isinstance(event["epoch"], float) else f"{event['epoch']:.3g}"
            return f"step {event['step']}  epoch {epoch}  {_metrics(event['metrics'])}{best}"
        case "checkpoint" if verbose:
            return (
                f"checkpoint at step {event['step']}: {size(event['bytes'])}, training stood {event['stall_s']:.3f} s"
            )
        case _:
            return None


def _start(event: Mapping[str, Any]) -> str:
    workers = int(event.get("workers") or 0)
    where = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "this process"
    share = event["trainable"] / event["total"] if event.get("total") else 0
    return (
        f"run {event['run']}: {event['rows']:,} rows, {event['steps']:,} steps in {where}; "
        f"{_count(event['trainable'])} of {_count(event['total'])} parameters move ({share:.1%})"
    )


def _count(number: float) -> str:
    for unit, limit in (("", 1e3), ("k", 1e6), ("M", 1e9)):
        if number < limit:
            return f"{number / limit * 1e3:.3g}{unit}"
    return f"{number / 1e9:.3g}G"


def _metrics(metrics: Mapping[str, Any], *, most: int = 4) -> str:
    """The first few metrics; a task puts the deciding one first."""
    return "  ".join(f"{name} {figure(value)}" for name, value in list(metrics.items())[:most])
