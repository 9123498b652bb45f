"""A thread that trains while its owner watches: Python cannot end a thread, so one that hangs is left behind."""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

END_S = 2.0
"""Seconds that a call has to end after it was abandoned."""
_NAME, _LEFT_BEHIND = "regraft-trials", "regraft-left-behind"


class WorkAbandoned(BaseException):
    """Raised inside a call that its owner no longer waits for. No Exception, so that no trial is blamed for it."""


class WorkThread:
    """Runs calls one after another in a daemon thread: the interpreter's end does not wait for it."""

    def __init__(self) -> None:
        self._calls: queue.Queue[tuple[Callable[[], Any], Future[Any]] | None] = queue.Queue()
        self._running: Future[Any] | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True, name=_NAME)
        self._thread.start()

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        """Start a call; the future has its result or its error, also one that is no Exception."""
        self._running = Future()
        self._calls.put((call, self._running))
        return self._running

    def end(self) -> bool:
        """End the thread and return whether it has ended; a call under way is interrupted where Python allows it."""
        self._calls.put(None)
        if self._running is not None and not self._running.done():
            target = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(WorkAbandoned))
        self._thread.join(END_S)
        if self._thread.is_alive():
            self._thread.name = _LEFT_BEHIND
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del item, call, future  # an error refers to the model through its traceback


def left_behind() -> bool:
    """Return whether a thread is left that hangs: the process must then end without waiting for libraries."""
    return any(thread.name == _LEFT_BEHIND for thread in threading.enumerate())
