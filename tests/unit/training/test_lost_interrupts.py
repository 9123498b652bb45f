"""Ctrl-C is never lost: what Python could not raise is delivered again, and no lock of logging stays taken."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from regraft.training.interrupts import interrupts_kept, raise_interrupt


class Finalized:
    """An object whose finalizer is interrupted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def in_a_finalizer() -> None:
    Finalized()


def in_a_collection() -> None:
    ring = [Finalized()]
    ring.append(ring)  # type: ignore[arg-type]
    del ring
    gc.collect()


def in_a_hook_of_fork() -> None:
    """Interrupt logging's hooks, as the kernel does: on their first line, with the lock taken."""
    code = logging._releaseLock.__code__  # type: ignore[attr-defined]

    def trace(frame: object, event: str, _: object) -> None:
        if getattr(frame, "f_code", None) is code and event == "call":
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)

    sys.settrace(trace)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def lock_is_free() -> bool:
    """Return whether another thread can take the lock of logging."""
    lock, took = logging._lock, []  # type: ignore[attr-defined]

    def take() -> None:
        took.append(lock.acquire(timeout=2))
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return took == [True]


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("lose", [in_a_finalizer, in_a_collection, in_a_hook_of_fork])
def test_an_interrupt_that_cannot_be_raised_comes_again(
    lose: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        lose()
        time.sleep(20)  # a wait in the system, which ends too
    assert "KeyboardInterrupt" not in capfd.readouterr().err
    assert lock_is_free()


def test_handlers_are_put_back() -> None:
    hook = sys.unraisablehook
    with interrupts_kept():
        assert signal.getsignal(signal.SIGINT) is raise_interrupt
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_kept():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
