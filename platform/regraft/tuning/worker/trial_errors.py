"""Sort errors into those that fail a single trial and those that end the worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from regraft.errors import Damaged, StoreError
from regraft.tuning.protocol import Coordinator, End, Trial
from regraft.tuning.records import error_line

log = logging.getLogger(__name__)


def ends_worker(error: Exception) -> bool:
    """Return whether an error is the store's own, and therefore no single trial's."""
    return isinstance(error, StoreError) and not isinstance(error, Damaged)


@contextmanager
def isolated(trial: Trial, coordinator: Coordinator) -> Iterator[list[str]]:
    """Fail the trial with an error raised inside and append its message to the yielded list; store errors propagate."""
    failed: list[str] = []
    try:
        yield failed
    except Exception as error:
        if ends_worker(error):
            raise
        log.info("trial %s", trial.id, exc_info=True)
        failed.append(error_line(error))
        coordinator.ended(trial.id, End("failed", 0.0, error=failed[0]))
