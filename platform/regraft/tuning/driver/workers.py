"""The worker pool of a search, and the loop that keeps every slot of it busy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from regraft.errors import RunError, StoreError
from regraft.training.stop_signals import StopNotice
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.records import error_line

log = logging.getLogger(__name__)
GRACE_S = 30.0
"""Least time without a sign of life after the end of the budget, in seconds, before a trial is taken to hang."""
READY_GRACE_S = 600.0
"""The same for a worker that loads base and rows."""
MAX_DEATHS = 5
"""How many workers of a slot may die one after another without having run a trial."""


class WorkerDied(Exception):
    """The process that ran trials has died; their progress since the last checkpoint is lost."""


class WorkStopped(Exception):
    """The search is to stop, and no step was under way in this worker."""


class WorkerHangs(Exception):
    """A worker gave no sign of life after the search's seconds were over; it is not waited for any longer."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """What ends the work of a pool before its trials end."""

    notice: StopNotice
    overtime: Callable[[], float]
    """Seconds since the search's budget was used up."""
    seconds: float
    """The budget; 0 without one."""

    def check_alive(self, silent_s: float, longest_s: float, *, least: float | None = None) -> None:
        """Raise WorkerHangs if the budget is used up and a worker has been silent for too long.

        `longest_s` is the longest time between two signs of life so far: what takes long by nature is waited for.
        """
        patience = max(GRACE_S if least is None else least, self.seconds / 10, 3 * longest_s)
        if self.overtime() > patience and silent_s > patience:
            raise WorkerHangs(
                f"it hangs: search.seconds ({self.seconds:g}) are over, and it reported neither a step nor an "
                f"evaluation for {silent_s:.0f} s; look at what it waits for (a file system, a plugin, a device)"
            )


class WorkerPool(Protocol):
    """The workers that run trials: this process, or actors on a cluster."""

    slots: int
    """Number of batches of trials that run at a time."""

    def assign(self, job: SearchJob, limits: SearchLimits) -> None:
        """Set the job of the search and what ends it; called once, before anything else."""
        ...

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Load base and rows, and compute the shared outputs. Any error but WorkerDied ends the search."""
        ...

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends, or to a checkpoint after a stop notice.

        Raises StoreError, WorkerDied, WorkerHangs, WorkStopped, or an error of one of these trials.
        """
        ...

    def close(self) -> None:
        """End the workers and release what they hold."""
        ...


PoolFactory = Callable[[], WorkerPool]
"""Makes a pool, whose workers may start before their job is known."""


class LazyPool:
    """A worker pool that is made at once or at first use; the stack closes it."""

    def __init__(self, make_pool: PoolFactory, stack: ExitStack, *, at_once: bool) -> None:
        self._make_pool, self._stack = make_pool, stack
        self._pool: WorkerPool | None = None
        if at_once:
            self.pool()

    def pool(self) -> WorkerPool:
        """Return the pool, after making it if necessary."""
        if self._pool is None:
            self._pool = self._make_pool()
            self._stack.callback(self._pool.close)
        return self._pool


def run_slots(coordinator: SearchCoordinator, pool: WorkerPool, first: list[Trial]) -> None:
    """Run each slot in a thread, slot 0 in this one, beginning with `first`; raise the first error of any slot."""
    errors: list[BaseException] = []

    def run(slot: int, begin: list[Trial]) -> None:
        try:
            run_slot(coordinator, pool, slot, begin)
        except WorkStopped:
            log.info("slot %d stops before a step", slot)
        except BaseException as error:
            errors.append(error)
            coordinator.leave()  # else the end of other slots' trials would be stored as a decision

    threads = [
        threading.Thread(target=run, args=(slot, []), daemon=True, name=f"regraft-slot-{slot}")
        for slot in range(1, pool.slots)
    ]
    for thread in threads:
        thread.start()
    run(0, first)
    if errors and isinstance(errors[0], KeyboardInterrupt):
        raise errors[0]
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run_slot(coordinator: SearchCoordinator, pool: WorkerPool, slot: int, first: list[Trial]) -> None:
    """Run batches in one slot, beginning with `first`, until the coordinator has no more.

    Raises RunError if more than MAX_DEATHS workers in a row die before running a trial.
    """
    batch: list[Trial] | None = first
    deaths = 0
    while batch is not None:
        if coordinator.evicted.is_set():
            coordinator.leave()
        elif batch:
            try:
                pool.ready(slot, coordinator)
            except WorkerDied as error:
                deaths += 1
                coordinator.lost(batch, error_line(error), blame=False)
                if deaths > MAX_DEATHS:
                    raise RunError(f"{deaths} workers died before they could run a trial: {error}") from error
            else:
                deaths = 0
                run_batch(coordinator, pool, slot, batch)
        batch = coordinator.take()


def run_batch(coordinator: SearchCoordinator, pool: WorkerPool, slot: int, batch: list[Trial]) -> None:
    """Run one batch; errors of its trials fail or requeue them, store errors propagate."""
    try:
        pool.work(slot, batch, coordinator)
    except WorkerDied as error:
        coordinator.lost(batch, error_line(error))
    except (StoreError, WorkStopped):
        raise
    except WorkerHangs as error:
        for trial in batch:
            coordinator.failed([trial], str(error))
    except Exception as error:
        log.info("trials %s", [trial.id for trial in batch], exc_info=True)
        coordinator.failed(batch, error_line(error))
    else:
        if not coordinator.notice:
            coordinator.failed(batch, "its worker returned without reporting how it ended")
