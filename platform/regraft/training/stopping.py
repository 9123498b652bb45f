"""Has somebody asked this run to stop? Looked up beside the steps, so that no step waits for the store."""

from __future__ import annotations

import logging
import threading

from regraft.errors import StoreError
from regraft.store.runs import Runs
from regraft.training.harness import Harness

_log = logging.getLogger(__name__)
LOOK_S = 3.0
"""Seconds between two looks into the store."""


class Stopping:
    """Rank 0 looks from a thread of its own; what it found is agreed on between steps, by all ranks at the same one."""

    def __init__(self, runs: Runs, run: str, harness: Harness, *, every: int = 1) -> None:
        self._runs, self._run, self._harness = runs, run, harness
        self._every = every if harness.world > 1 else 1
        self._found, self._done = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look; nothing on ranks but the first."""
        if self._harness.first and self._thread is None:
            self._thread = threading.Thread(target=self._look, name="regraft-stopping", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._done.set()

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on every rank, so every rank must ask.

        With several ranks the question costs a message, and is put only every so many steps.
        """
        return step % self._every == 0 and bool(self._harness.from_first(self._found.is_set()))

    def _look(self) -> None:
        while not self._done.wait(LOOK_S):
            try:
                if self._runs.stop_asked(self._run):
                    self._found.set()
                    return
            except StoreError as error:
                _log.info("whether run %s is to stop could not be looked up: %s", self._run, error)
