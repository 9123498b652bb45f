"""Ctrl-C that no code can lose: an interrupt that Python could not raise is delivered again.

KeyboardInterrupt rises wherever the main thread happens to be. In a finalizer, a weak reference's callback or a hook of
`fork`, Python prints it and drops it; in logging's hooks of `fork`, a lock would stay taken for ever.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_S = 0.05
"""Seconds until an interrupt is delivered again: hooks and finalizers are over by then."""
_HOOKS = tuple(getattr(logging, name, None) for name in ("_acquireLock", "_releaseLock"))
_CANNOT_RAISE = {hook.__code__ for hook in _HOOKS if hook is not None}


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal: raise KeyboardInterrupt, or a moment later where the interrupted code would lose it."""
    while frame is not None:
        if frame.f_code in _CANNOT_RAISE:
            _deliver_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Deliver again what Python could not raise, while the context is open; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)

    def unraisable(args: UnraisableHookArgs) -> None:
        if isinstance(args.exc_value, KeyboardInterrupt):
            _deliver_again()
        else:
            hook(args)

    sys.unraisablehook = unraisable
    if handler is signal.default_int_handler:  # otherwise Ctrl-C is ignored, or another program's
        signal.signal(signal.SIGINT, raise_interrupt)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGINT) is raise_interrupt:
            signal.signal(signal.SIGINT, handler)


def _deliver_again() -> None:
    timer = threading.Timer(AGAIN_S, _interrupt_main_thread)
    timer.daemon = True
    timer.start()


def _interrupt_main_thread() -> None:
    """Send SIGINT to the main thread, so that a system call that it waits in ends too."""
    if (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, signal.SIGINT)
