"""The event log of a run in the store, `runs/<run>/log.jsonl`, readable from every machine."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from regraft.contracts import CheckpointWritten, Event, Progress, RunFailed, Stepped, TrunkProgress
from regraft.errors import NotFound, RegraftError, StoreError
from regraft.store.redact import redacted
from regraft.store.runs import LOG, Runs, parse_event

_log = logging.getLogger(__name__)
STEP_S = 10.0
"""Seconds between two step lines; metrics.jsonl has the others."""
FLUSH_S = 5.0
MOST_LINES = 2000
"""Beyond this, the oldest step lines are dropped first, then the oldest of all."""
LONGEST = 2000
"""Most characters of a message."""
_LEFT_OUT = (CheckpointWritten, TrunkProgress)


class EventLog:
    """Passes events to `progress`, and stores them with a run while `of` is open.

    An error of the store never stops the run.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._dirty = False
        self._stepped = -math.inf

    def __call__(self, event: Event) -> None:
        """Take an event; returns immediately, since it is called between two steps."""
        self._take(event)
        if self._progress is not None:
            self._progress(event)

    @contextmanager
    def of(self, runs: Runs, run: str) -> Iterator[None]:
        """Store events with a run while the context is open; an error that ends it is the last line."""
        done = threading.Event()
        with self._lock:
            self._lines = earlier_lines(runs, run) + self._lines
        thread = threading.Thread(target=self._write, args=(runs, run, done), name="regraft-event-log", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            message = error.message if isinstance(error, RegraftError) else str(error)
            self._take(RunFailed(type(error).__name__, message))
            raise
        finally:
            done.set()
            thread.join()

    def _take(self, event: Event) -> None:
        now = time.time()
        if isinstance(event, _LEFT_OUT) or (isinstance(event, Stepped) and now - self._stepped < STEP_S):
            return
        self._stepped = now if isinstance(event, Stepped) else self._stepped
        text = redacted(json.dumps({"time": round(now, 3), **_shortened(event.document())}, default=str))
        with self._lock:
            self._lines.append(text)
            self._dirty = True
            if len(self._lines) > MOST_LINES:
                step = next((at for at, line in enumerate(self._lines) if '"event": "step"' in line), 0)
                del self._lines[step]

    def _write(self, runs: Runs, run: str, done: threading.Event) -> None:
        while not done.wait(FLUSH_S):
            self._flush(runs, run)
        self._flush(runs, run)

    def _flush(self, runs: Runs, run: str) -> None:
        with self._lock:
            text, dirty, self._dirty = "\n".join(self._lines) + "\n", self._dirty, False
        if not dirty:
            return
        try:
            runs.write(run, LOG, text.encode())
        except StoreError as error:
            _log.info("the log of run %s could not be written: %s", run, error)
            self._dirty = True


def earlier_lines(runs: Runs, run: str) -> list[str]:
    """Return the lines of earlier attempts, without a truncated one."""
    try:
        text = runs.read(run, LOG).decode("utf-8", "replace")
    except (NotFound, StoreError):
        return []
    return [line for line in text.splitlines() if parse_event(line) is not None][-MOST_LINES:]


def _shortened(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[:LONGEST] if isinstance(value, str) else value for key, value in document.items()}
