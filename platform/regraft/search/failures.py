"""What ends one trial and what ends a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from regraft.errors import AskedWrong, Damaged, Diverged, StoreError
from regraft.search.trials import Desk, End, Trial

log = logging.getLogger(__name__)


@contextmanager
def alone(trial: Trial, desk: Desk) -> Iterator[list[str]]:
    """What a trial raises inside ends that trial, and stands in the list in one line; what the store raises goes on."""
    failed: list[str] = []
    try:
        yield failed
    except Exception as error:
        if isinstance(error, StoreError) and not isinstance(error, Damaged):
            raise
        log.info("trial %s", trial.id, exc_info=True)
        failed.append(in_a_line(error))
        desk.ended(trial.id, End("failed", 0.0, error=failed[0]))


def in_a_line(error: BaseException) -> str:
    """An error for a trial's record."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, AskedWrong | Diverged) else f"{type(error).__name__}: {text}"
