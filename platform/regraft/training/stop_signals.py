"""Requests to stop a run: SIGTERM, Ctrl-C, `regraft runs stop`, or a machine that is taken away."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from regraft.errors import StoreError, StoreGone
from regraft.store.runs import Runs
from regraft.training.interrupts import raise_interrupt


class StopNotice:
    """A request to stop, given from any thread or signal handler and checked between steps; the first reason counts."""

    def __init__(self) -> None:
        self.reason = ""
        self.interrupted = False
        """Whether Ctrl-C asked for it: the command then ends with the exit code of an interrupt."""

    def give(self, reason: str) -> None:
        """Request that the run stops, with the reason."""
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def on_sigterm(notice: StopNotice) -> Iterator[None]:
    """Turn SIGTERM, sent when a machine or job ends, into a notice; a second one interrupts the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if notice:
            os.kill(os.getpid(), signal.SIGINT)
        notice.give("this process was asked to end (SIGTERM)")

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextmanager
def on_interrupt(notice: StopNotice, waits: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn Ctrl-C into a notice, as SIGTERM is; a second one raises KeyboardInterrupt at once.

    So does the first one while `waits()` is false: there is then no step under way to wait for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if notice or not waits():
            raise_interrupt(number, frame)
            return
        notice.give("interrupted (Ctrl-C)")
        notice.interrupted = True
        # Not as an event: the handler may run while a lock of the progress display is held.
        with suppress(OSError):  # what reads stderr may have been ended by the same Ctrl-C
            os.write(2, b"\nstopping with a checkpoint after the step under way; Ctrl-C again leaves at once\n")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)


_log = logging.getLogger(__name__)
CHECK_S = 3.0
"""Seconds between two checks of the store."""


@contextmanager
def on_stop_request(runs: Runs, run: str, notice: StopNotice) -> Iterator[None]:
    """Give notice when `regraft runs stop` asks for it, while the context is open."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(runs, run, notice, done), name="regraft-stop-request", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _watch(runs: Runs, run: str, notice: StopNotice, done: threading.Event) -> None:
    while not done.wait(CHECK_S):
        try:
            if runs.stop_requested(run):
                notice.give("`regraft runs stop` asked for it")
                return
        except StoreGone as error:
            notice.give(str(error))
            return
        except StoreError as error:
            _log.info("whether run %s is to stop could not be looked up: %s", run, error)
