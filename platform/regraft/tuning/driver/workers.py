"""Who runs trials, and how every worker is kept busy until there are none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from regraft.errors import RunError, StoreError
from regraft.store.lease import Lease
from regraft.tuning.driver.coordinator import SearchCoordinator
from regraft.tuning.protocol import Coordinator, SearchJob, Trial
from regraft.tuning.records import error_line

log = logging.getLogger(__name__)
DEATHS = 5
"""Workers that may die before they ever ran a trial."""


class WorkerDied(Exception):
    """The process that ran trials is gone, and with it what they were doing."""


class WorkerPool(Protocol):
    """Who runs trials: this process, or workers on a cluster."""

    slots: int
    """How many batches of trials run at a time."""

    def assign(self, job: SearchJob) -> None:
        """Say what is to be searched, before anything is asked."""
        ...

    def ready(self, slot: int, coordinator: Coordinator) -> None:
        """Have the base, the rows and the frozen part there; what this raises ends the search. WorkerDied."""
        ...

    def work(self, slot: int, trials: Sequence[Trial], coordinator: Coordinator) -> None:
        """Run trials to their ends; StoreError, WorkerDied, or what else went wrong with these trials."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...


PoolFactory = Callable[[], WorkerPool]
"""Takes workers on, which may begin to start before it is known what they will do."""


class LazyPool:
    """A crew that is taken on now, or when there is work for it; it goes with the stack."""

    def __init__(self, pool_factory: PoolFactory, stack: ExitStack, *, at_once: bool) -> None:
        self._pool_factory, self._stack = pool_factory, stack
        self._pool: WorkerPool | None = None
        if at_once:
            self.pool()

    def pool(self) -> WorkerPool:
        """The crew."""
        if self._pool is None:
            self._pool = self._pool_factory()
            self._stack.callback(self._pool.close)
        return self._pool


def run_slots(coordinator: SearchCoordinator, pool: WorkerPool, first: list[Trial], lease: Lease) -> None:
    """One thread for each slot but the first, which is this one; the first error of any ends all."""
    errors: list[BaseException] = []

    def labour(slot: int, begin: list[Trial]) -> None:
        try:
            run_slot(coordinator, pool, slot, begin, lease)
        except BaseException as error:
            errors.append(error)
            coordinator.leave()  # what the others run is not to end as if it had been decided

    threads = [
        threading.Thread(target=labour, args=(slot, []), daemon=True, name=f"regraft-slot-{slot}")
        for slot in range(1, pool.slots)
    ]
    for thread in threads:
        thread.start()
    labour(0, first)
    if errors and isinstance(errors[0], KeyboardInterrupt):
        raise errors[0]
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run_slot(coordinator: SearchCoordinator, pool: WorkerPool, slot: int, begin: list[Trial], lease: Lease) -> None:
    """One slot: take, run, again."""
    batch: list[Trial] | None = begin
    deaths = 0
    while batch is not None:
        if batch and not lease.lost.is_set():
            try:
                pool.ready(slot, coordinator)
            except WorkerDied as error:
                deaths += 1
                coordinator.lost(batch, error_line(error), blame=False)
                if deaths > DEATHS:
                    raise RunError(f"{deaths} workers died before they could run a trial: {error}") from error
            else:
                deaths = 0
                run_batch(coordinator, pool, slot, batch)
        elif lease.lost.is_set():
            coordinator.leave()
        batch = coordinator.take()


def run_batch(coordinator: SearchCoordinator, pool: WorkerPool, slot: int, batch: list[Trial]) -> None:
    """Run some trials; what goes wrong with them stays with them, what goes wrong with the store does not."""
    try:
        pool.work(slot, batch, coordinator)
    except WorkerDied as error:
        coordinator.lost(batch, error_line(error))
    except StoreError:
        raise
    except Exception as error:
        log.info("trials %s", [trial.id for trial in batch], exc_info=True)
        coordinator.failed(batch, error_line(error))
    else:
        coordinator.failed(batch, "it was run, and never told how it ended")
