"""Progress of a training run: a live line on a terminal, elsewhere sparse plain lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from regraft.cli.jobs import job_log
from regraft.cli.screen import Screen, figure
from regraft.contracts import (
    BaselineMeasured,
    CheckpointWritten,
    EvaluationDone,
    Event,
    MeasuredOnTest,
    Note,
    Progress,
    Resumed,
    Started,
    Stepped,
    TrunkProgress,
)
from regraft.units import bytes_text, counted, seconds_text

_SPARSE_S = 10.0
"""Seconds between the step lines of a log: few enough for a run of hours, frequent enough for one of a minute."""


def following(screen: Screen) -> contextlib.AbstractContextManager[Progress]:
    """Return a sink for progress events that suits where they are shown."""
    return shown(screen, TrainLog, TrainDisplay)


@contextlib.contextmanager
def shown(
    screen: Screen,
    log: Callable[[Screen], Progress],
    display: Callable[[Screen], contextlib.AbstractContextManager[Progress]],
) -> Iterator[Progress]:
    """Yield a sink: marked lines in a submitted job, `log` away from a terminal, `display` on one."""
    if job_log.enabled():
        yield job_log.progress
        return
    if not screen.terminal:
        yield log(screen)
        return
    with display(screen) as sink:
        yield sink


class TrainLog:
    """Plain lines: the start, every evaluation, and a step every ten seconds."""

    def __init__(self, screen: Screen, *, every_s: float = _SPARSE_S) -> None:
        self._screen = screen
        self._every_s = every_s
        self._shown = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped):
            if time.monotonic() - self._shown < self._every_s:
                return
            self._shown = time.monotonic()
            self._screen.note(f"{event.unit or 'step'} {event.step}/{event.steps}  {step_text(event)}")
        elif (text := line_of(event, verbose=self._screen.verbose)) is not None:
            self._screen.note(text)


class TrainDisplay:
    """One line that moves, with lasting lines printed above it; it disappears when the run is over."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._metric = ""
        self._bar = Bar(
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            # A console of its own: the screen's does not cut lines, and only a line that does not wrap is erased.
            console=Console(file=screen.stream, highlight=False),
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("preparing base, data and workers", total=None)

    def __enter__(self) -> TrainDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        if (line := line_of(event, verbose=self._screen.verbose)) is not None:
            self._bar.console.print(line, markup=False)
        match event:
            case Started():
                self._bar.update(self._task, total=event.steps, description="first step")
            case BaselineMeasured():
                self._bar.update(self._task, description="measuring baselines")
            case TrunkProgress():
                self._bar.update(self._task, description=trunk_text(event))
            case Resumed():
                self._bar.update(self._task, completed=event.step)
            case EvaluationDone():
                self._metric = f"  {_metrics(event.metrics, most=1)}"
            case Stepped():
                text = f"{event.unit or ''} {event.step}/{event.steps}  {step_text(event, metric=self._metric)}"
                self._bar.update(self._task, completed=event.step, total=event.steps, description=text.lstrip())


def trunk_text(event: TrunkProgress) -> str:
    """Return `frozen part, 1,200 of 5,000 rows`."""
    return f"frozen part, {event.rows:,} of {event.total:,} rows"


def step_text(event: Stepped, *, metric: str = "") -> str:
    """Return `epoch 1.2  loss 0.4321  312 rows/s  12 s left`, without the fields that are None."""
    texts = [f"epoch {float(event.epoch):.1f}"] if event.epoch is not None else []
    texts += [f"loss {figure(float(event.loss))}{metric}"] if event.loss is not None else []
    texts += [f"{event.rows_per_second:.0f} rows/s"] if event.rows_per_second is not None else []
    texts += [f"{seconds_text(event.left_s)} left"] if event.left_s is not None else []
    return "  ".join(texts)


def line_of(event: Event, *, verbose: bool = False) -> str | None:
    """Return the line that an event leaves on the screen; None if it leaves none."""
    match event:
        case Started():
            return _start(event)
        case Resumed():
            return f"continues at step {event.step} from {event.checkpoint}"
        case Note():
            return event.message
        case BaselineMeasured():
            return f"baseline {event.name.replace('_', ' ')}: {_metrics(event.metrics)}"
        case MeasuredOnTest():
            of = f" of trial {event.trial}" if event.trial else ""
            return f"test rows ({event.rows:,}), measured once{of}: {_metrics(event.metrics)}"
        case EvaluationDone():
            best = "  best so far" if event.best else ""
            epoch = event.epoch if not isinstance(event.epoch, float) else f"{event.epoch:.3g}"
            return f"step {event.step}  epoch {epoch}  {_metrics(event.metrics)}{best}"
        case CheckpointWritten() if verbose:
            return f"checkpoint at step {event.step}: {bytes_text(event.bytes)}, training stood {event.stall_s:.3f} s"
        case _:
            return None


def _start(event: Started) -> str:
    where = f"{event.workers} worker{'s' if event.workers > 1 else ''}" if event.workers else "this process"
    share = event.trainable / event.total if event.total else 0
    return (
        f"run {event.run}: {counted(event.rows, 'row')}, {counted(event.steps, 'step')} in {where}; "
        f"{_count(event.trainable)} of {_count(event.total)} parameters move ({share:.1%})"
    )


def _count(number: float) -> str:
    for unit, limit in (("", 1e3), ("k", 1e6), ("M", 1e9)):
        if number < limit:
            return f"{number / limit * 1e3:.3g}{unit}"
    return f"{number / 1e9:.3g}G"


def _metrics(metrics: Mapping[str, Any], *, most: int = 4) -> str:
    """Return the first few metrics as text; a task puts the deciding one first."""
    return "  ".join(f"{name} {figure(value)}" for name, value in list(metrics.items())[:most])
