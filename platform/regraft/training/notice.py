"""Word that a run must leave where it is: a machine that is taken away, a process that is asked to end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Notice:
    """Given from any thread or signal handler, looked at between steps; the first reason counts."""

    def __init__(self) -> None:
        self.reason = ""

    def give(self, reason: str) -> None:
        """Say that the run must leave, and why."""
        self.reason = self.reason or reason

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def on_sigterm(notice: Notice) -> Iterator[None]:
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
