"""Has somebody asked this run to stop? The driver looks beside its work, so that no step waits for the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from regraft.errors import StoreError
from regraft.store.runs import Runs
from regraft.training.notice import Notice

_log = logging.getLogger(__name__)
LOOK_S = 3.0
"""Seconds between two looks into the store."""


@contextmanager
def when_asked(runs: Runs, run: str, notice: Notice) -> Iterator[None]:
    """Give notice once `regraft runs stop` asks for it."""
    done = threading.Event()
    thread = threading.Thread(target=_look, args=(runs, run, notice, done), name="regraft-stopping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _look(runs: Runs, run: str, notice: Notice, done: threading.Event) -> None:
    while not done.wait(LOOK_S):
        try:
            if runs.stop_asked(run):
                notice.give("`regraft runs stop` asked for it")
                return
        except StoreError as error:
            _log.info("whether run %s is to stop could not be looked up: %s", run, error)
