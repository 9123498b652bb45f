"""A search as it goes: a live table on a terminal, a line for each trial that ends anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from regraft.cli.screen import Screen, figure, harmless, span
from regraft.cli.train_progress import Sink, line_of, shown

_ROWS = 12
"""Trials shown while a search goes on: those that run, then the best."""
_SPARSE_S = 10.0
"""Between two lines that only say that it goes on."""
_OVER = ("finished", "stopped", "failed")
_QUIET = ("step", "eval", "start", "checkpoint", "resume", "shared")
"""What single trials say while they train; the table says it better."""


def following(screen: Screen) -> contextlib.AbstractContextManager[Sink]:
    """A sink for a search's events that suits where they are shown."""
    return shown(screen, Lines, Live)


class State:
    """What is known of a search so far."""

    def __init__(self) -> None:
        self.score = ""
        self.sign = 1.0
        self.trials: dict[str, Mapping[str, Any]] = {}
        self.last: Mapping[str, Any] = {}
        self.doing = "preparing base, rows and workers"

    def take(self, event: Mapping[str, Any]) -> None:
        """Another event."""
        kind = event["event"]
        if kind == "search":
            self.score, self.sign = event["score"]["name"], -1.0 if event["score"]["mode"] == "min" else 1.0
        elif kind == "trial":
            self.trials[event["id"]] = self.last = event
            self.doing = ""
        elif kind == "trunk" and "total" in event:
            self.doing = f"frozen part, {event['rows']:,} of {event['total']:,} rows"

    def head(self) -> str:
        """`7 of 16 trials done, 2 running, 1 failed   best 0.9120 t0003 lr 0.0003   about 2 min left`."""
        if not self.last:
            return self.doing
        counts, total = self.last["counts"], self.last["trials"]
        done = sum(counts[state] for state in _OVER)
        parts = [f"{done} of {total} trials done" if total else f"{done} trials done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "stopped", "failed") if counts[state]]
        text = ", ".join(parts)
        if leader := self.last.get("leader"):
            text += f"   best {figure(leader[self.score])} {leader['id']} {told(leader['overrides'])}"
        if (left := self.left()) is not None:
            text += f"   {'' if self.last.get('left_s') == left else 'about '}{span(left)} left"
        return f"{text}   {self.doing}" if self.doing else text

    def left(self) -> float | None:
        """Seconds to the end: of the budget, or by what trials took so far, whichever is less."""
        counts, total = self.last["counts"], self.last["trials"]
        done = sum(counts[state] for state in _OVER)
        guess = self.last["elapsed_s"] / done * (total - done) if done and total else None
        bounds = [value for value in (guess, self.last.get("left_s")) if value is not None]
        return max(0.0, min(bounds)) if bounds else None

    def rows(self) -> list[Mapping[str, Any]]:
        """The trials to show."""

        def order(event: Mapping[str, Any]) -> tuple[bool, float]:
            best = (event.get("best") or {}).get(self.score)
            return event["status"] != "running", float("inf") if best is None else -self.sign * best

        return sorted(self.trials.values(), key=order)[:_ROWS]


class Lines:
    """Plain lines: each trial's end, and now and then how far it is."""

    def __init__(self, screen: Screen, *, every_s: float = _SPARSE_S) -> None:
        self._screen, self._every_s = screen, every_s
        self._state = State()
        self._shown = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._state.take(event)
        if event["event"] in _QUIET:
            return
        if event["event"] == "trial":
            over = event["status"] in _OVER
            if over:
                self._screen.note(ended(event, self._state.score))
            if (over and self._state.last["trials"] is None) or time.monotonic() - self._shown > self._every_s:
                self._shown = time.monotonic()
                self._screen.note(self._state.head())
        elif event["event"] == "trunk":
            if time.monotonic() - self._shown > self._every_s:
                self._shown = time.monotonic()
                self._screen.note(self._state.doing)
        elif (text := line_of(event, verbose=self._screen.verbose)) is not None:
            self._screen.note(text)


class Live:
    """A table that is drawn anew as trials go on, and is gone when the search is over."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._state = State()
        self._live = RichLive(
            console=Console(file=screen.stream, highlight=False),
            transient=True,
            refresh_per_second=4,
            get_renderable=self._drawn,
        )

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._state.take(event)
        if event["event"] == "trial" and event["status"] == "failed":
            self._live.console.print(ended(event, self._state.score), markup=False)
        elif event["event"] not in (*_QUIET, "trial", "trunk"):
            text = line_of(event, verbose=self._screen.verbose)
            if text is not None:
                self._live.console.print(harmless(text), markup=False)

    def _drawn(self) -> Group:
        state = self._state
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("trial", "status", "epoch", state.score or "score", "best", "what it varies"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for event in state.rows():
            now, best = event["metrics"].get(state.score), (event.get("best") or {}).get(state.score)
            epoch = "" if event.get("epoch") is None else f"{event['epoch']:.3g}"
            cells = (event["id"], event["status"], epoch, _cell(now), _cell(best), told(event["overrides"]))
            table.add_row(*(Text(harmless(cell)) for cell in cells))
        return Group(Text(harmless(state.head()), no_wrap=True, overflow="ellipsis"), table)


def _cell(value: object) -> str:
    return "" if value is None else figure(value)


def ended(event: Mapping[str, Any], score: str) -> str:
    """The line of a trial that is over."""
    head = f"trial {event['id']} {event['status']}"
    if event["status"] == "failed":
        return harmless(f"{head}: {event.get('error')}   {told(event['overrides'])}")
    best = (event.get("best") or {}).get(score)
    return harmless(f"{head}  {score} {_cell(best)}  {span(event['seconds'])}  {told(event['overrides'])}")


def told(overrides: Mapping[str, Any]) -> str:
    """`method freeze, depth 4, lr 0.0003`: fields by their last name, methods with what they write."""
    parts = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            fields = ", ".join(f"{key} {_short(item)}" for key, item in value.items() if key != "type")
            value = f"{value.get('type', '')}({fields})" if fields else str(value.get("type", value))
        parts.append(f"{name.rpartition('.')[2]} {_short(value)}")
    return ", ".join(parts)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
