"""The clock of a command: what it does for other runs is no part of its own run's time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regraft.training import run_times
from regraft.training.job import Job


class CommandClock:
    """Counts the seconds that a command takes for its run."""

    def __init__(self) -> None:
        self.paused_s = 0.0
        """Seconds that do not count."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        began = run_times.now()
        try:
            yield
        finally:
            self.paused_s += max(0.0, run_times.now() - began)

    def spent_s(self, job: Job) -> float:
        """Return the seconds of all commands of a run so far."""
        return max(job.spent, job.spent + run_times.now() - job.began - self.paused_s)
