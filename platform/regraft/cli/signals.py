"""SIGTERM as Ctrl-C, for commands that clean up before they end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from regraft.training.interrupts import raise_interrupt


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGTERM, which ends containers and jobs, as for Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
