"""Word that a run must leave where it is: a machine that is taken away, a process that is asked to end."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from regraft.errors import StoreError
from regraft.store.runs import Runs


class StopNotice:
    """Given from any thread or signal handler, looked at between steps; the first reason counts."""

    def __init__(self) -> None:
        self.reason = ""

    def give(self, reason: str) -> None:
        """Say that the run must leave, and why."""
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def on_sigterm(notice: StopNotice) -> Iterator[None]:
    """Let SIGTERM, with which machines and jobs are ended, mean leaving at the next step; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        if notice:
            os.kill(os.getpid(), signal.SIGINT)
        notice.give("this process was asked to end (SIGTERM)")

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


_log = logging.getLogger(__name__)
LOOK_S = 3.0
"""Seconds between two looks into the store."""


@contextmanager
def when_asked(runs: Runs, run: str, notice: StopNotice) -> Iterator[None]:
    """Give notice once `regraft runs stop` asks for it."""
    done = threading.Event()
    thread = threading.Thread(target=_look, args=(runs, run, notice, done), name="regraft-stopping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _look(runs: Runs, run: str, notice: StopNotice, done: threading.Event) -> None:
    while not done.wait(LOOK_S):
        try:
            if runs.stop_asked(run):
                notice.give("`regraft runs stop` asked for it")
                return
        except StoreError as error:
            _log.info("whether run %s is to stop could not be looked up: %s", run, error)
