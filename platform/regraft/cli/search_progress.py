"""Progress of a search: a live table on a terminal, elsewhere a line for each trial that ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from regraft.cli.screen import Screen, figure, harmless
from regraft.cli.train_progress import line_of, shown, trunk_text
from regraft.contracts import (
    CheckpointWritten,
    EvaluationDone,
    Event,
    Progress,
    Resumed,
    SearchStarted,
    Started,
    Stepped,
    TrialUpdated,
    TrunkProgress,
    TrunkShared,
)
from regraft.spec.search_bases import BASE, short_base
from regraft.units import counted, seconds_text

_ROWS = 12
"""Most trials shown during a search: those that run, then the best."""
_SPARSE_S = 10.0
"""Seconds between two lines that only show how far the search is."""
_OVER = ("finished", "stopped", "failed")
_OF_TRIALS = (Stepped, EvaluationDone, Started, CheckpointWritten, Resumed, TrunkShared)
"""Events of single trials while they train, which the table covers."""


def following(screen: Screen) -> contextlib.AbstractContextManager[Progress]:
    """Return a sink for a search's events that suits where they are shown."""
    return shown(screen, SearchLog, SearchDisplay)


class SearchState:
    """The state of a search, from its events so far."""

    def __init__(self) -> None:
        self.score = ""
        self.sign = 1.0
        self.trials: dict[str, TrialUpdated] = {}
        self.last: TrialUpdated | None = None
        self.doing = "preparing base, rows and workers"

    def add(self, event: Event) -> None:
        """Add an event."""
        match event:
            case SearchStarted():
                self.score, self.sign = event.score["name"], -1.0 if event.score["mode"] == "min" else 1.0
            case TrialUpdated():
                self.trials[event.id] = self.last = event
                self.doing = ""
            case TrunkProgress():
                self.doing = trunk_text(event)

    def head(self) -> str:
        """Return `7 of 16 trials done, 2 running, 1 failed   best 0.9120 t0003 lr 0.0003   about 2 min left`."""
        if self.last is None:
            return self.doing
        counts, total = self.last.counts, self.last.trials
        done = sum(counts[state] for state in _OVER)
        parts = [f"{done} of {counted(total, 'trial')} done" if total else f"{counted(done, 'trial')} done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "stopped", "failed") if counts[state]]
        text = ", ".join(parts)
        if leader := self.last.leader:
            text += f"   best {figure(leader[self.score])} {leader['id']} {overrides_text(leader['overrides'])}"
        if (left := self._left(self.last)) is not None:
            text += f"   {'' if self.last.left_s == left else 'about '}{seconds_text(left)} left"
        return f"{text}   {self.doing}" if self.doing else text

    def rows(self) -> list[TrialUpdated]:
        """Return the trials to show: those that run, then the best."""

        def order(event: TrialUpdated) -> tuple[bool, float]:
            best = (event.best or {}).get(self.score)
            return event.status != "running", float("inf") if best is None else -self.sign * best

        return sorted(self.trials.values(), key=order)[:_ROWS]

    @staticmethod
    def _left(last: TrialUpdated) -> float | None:
        """Return the seconds to the end: of the budget, or by what trials took so far, whichever is less."""
        done = sum(last.counts[state] for state in _OVER)
        guess = last.elapsed_s / done * (last.trials - done) if done and last.trials else None
        bounds = [value for value in (guess, last.left_s) if value is not None]
        return max(0.0, min(bounds)) if bounds else None


class SearchLog:
    """Plain lines: each trial's end, and from time to time how far the search is."""

    def __init__(self, screen: Screen, *, every_s: float = _SPARSE_S) -> None:
        self._screen, self._every_s = screen, every_s
        self._state = SearchState()
        self._shown = time.monotonic()

    def __call__(self, event: Event) -> None:
        self._state.add(event)
        if isinstance(event, _OF_TRIALS):
            return
        if isinstance(event, TrialUpdated):
            over = event.status in _OVER
            if over:
                self._screen.note(ended(event, self._state.score))
            if (over and event.trials is None) or self._due():
                self._show(self._state.head())
        elif isinstance(event, TrunkProgress):
            if self._due():
                self._show(self._state.doing)
        elif (text := line_of(event, verbose=self._screen.verbose)) is not None:
            self._screen.note(text)

    def _due(self) -> bool:
        return time.monotonic() - self._shown > self._every_s

    def _show(self, text: str) -> None:
        self._shown = time.monotonic()
        self._screen.note(text)


class SearchDisplay:
    """A table that is redrawn as trials go on, and disappears when the search is over."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._state = SearchState()
        self._live = Live(
            console=Console(file=screen.stream, highlight=False),
            transient=True,
            refresh_per_second=4,
            get_renderable=self._drawn,
        )

    def __enter__(self) -> SearchDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        self._state.add(event)
        if isinstance(event, TrialUpdated):
            if event.status == "failed":
                self._live.console.print(ended(event, self._state.score), markup=False)
        elif not isinstance(event, (*_OF_TRIALS, TrunkProgress)):
            text = line_of(event, verbose=self._screen.verbose)
            if text is not None:
                self._live.console.print(harmless(text), markup=False)

    def _drawn(self) -> Group:
        state = self._state
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("trial", "status", "epoch", state.score or "score", "best", "what it varies"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for event in state.rows():
            now, best = event.metrics.get(state.score), (event.best or {}).get(state.score)
            epoch = "" if event.epoch is None else f"{event.epoch:.3g}"
            cells = (event.id, event.status, epoch, _cell(now), _cell(best), overrides_text(event.overrides))
            table.add_row(*(Text(harmless(cell)) for cell in cells))
        return Group(Text(harmless(state.head()), no_wrap=True, overflow="ellipsis"), table)


def _cell(value: object) -> str:
    return "" if value is None else figure(value)


def ended(event: TrialUpdated, score: str) -> str:
    """Return the line of a trial that is over."""
    head = f"trial {event.id} {event.status}"
    if event.status == "failed":
        return harmless(f"{head}: {event.error}   {overrides_text(event.overrides)}")
    best = (event.best or {}).get(score)
    return harmless(f"{head}  {score} {_cell(best)}  {seconds_text(event.seconds)}  {overrides_text(event.overrides)}")


def overrides_text(overrides: Mapping[str, Any]) -> str:
    """Return `method freeze, depth 4, lr 0.0003`: fields by their last name, methods with their own fields."""
    parts = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            fields = ", ".join(f"{key} {_short(item)}" for key, item in value.items() if key != "type")
            value = f"{value.get('type', '')}({fields})" if fields else str(value.get("type", value))
        if name == BASE:
            value = short_base(str(value))
        parts.append(f"{name.rpartition('.')[2]} {_short(value)}")
    return ", ".join(parts)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
