"""Who runs trials, and how every worker is kept busy until there are none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from regraft.errors import RunError, StoreError
from regraft.store.lease import Lease
from regraft.tuning.driver.coordinator import FrontDesk, told
from regraft.tuning.protocol import Desk, SearchJob, Trial

log = logging.getLogger(__name__)
DEATHS = 5
"""Workers that may die before they ever ran a trial."""


class WorkerDied(Exception):
    """The process that ran trials is gone, and with it what they were doing."""


class Crew(Protocol):
    """Who runs trials: this process, or workers on a cluster."""

    slots: int
    """How many batches of trials run at a time."""

    def assign(self, job: SearchJob) -> None:
        """Say what is to be searched, before anything is asked."""
        ...

    def ready(self, slot: int, desk: Desk) -> None:
        """Have the base, the rows and the frozen part there; what this raises ends the search. WorkerDied."""
        ...

    def work(self, slot: int, trials: Sequence[Trial], desk: Desk) -> None:
        """Run trials to their ends; StoreError, WorkerDied, or what else went wrong with these trials."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...


Crewing = Callable[[], Crew]
"""Takes workers on, which may begin to start before it is known what they will do."""


class Taking:
    """A crew that is taken on now, or when there is work for it; it goes with the stack."""

    def __init__(self, crewing: Crewing, stack: ExitStack, *, at_once: bool) -> None:
        self._crewing, self._stack = crewing, stack
        self._crew: Crew | None = None
        if at_once:
            self.crew()

    def crew(self) -> Crew:
        """The crew."""
        if self._crew is None:
            self._crew = self._crewing()
            self._stack.callback(self._crew.close)
        return self._crew


def every_slot(desk: FrontDesk, crew: Crew, first: list[Trial], lease: Lease) -> None:
    """One thread for each slot but the first, which is this one; the first error of any ends all."""
    errors: list[BaseException] = []

    def labour(slot: int, begin: list[Trial]) -> None:
        try:
            slot_works(desk, crew, slot, begin, lease)
        except BaseException as error:
            errors.append(error)
            desk.leave()  # what the others run is not to end as if it had been decided

    threads = [
        threading.Thread(target=labour, args=(slot, []), daemon=True, name=f"regraft-slot-{slot}")
        for slot in range(1, crew.slots)
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


def slot_works(desk: FrontDesk, crew: Crew, slot: int, begin: list[Trial], lease: Lease) -> None:
    """One slot: take, run, again."""
    batch: list[Trial] | None = begin
    deaths = 0
    while batch is not None:
        if batch and not lease.lost.is_set():
            try:
                crew.ready(slot, desk)
            except WorkerDied as error:
                deaths += 1
                desk.lost(batch, told(error), blame=False)
                if deaths > DEATHS:
                    raise RunError(f"{deaths} workers died before they could run a trial: {error}") from error
            else:
                deaths = 0
                run_batch(desk, crew, slot, batch)
        elif lease.lost.is_set():
            desk.leave()
        batch = desk.take()


def run_batch(desk: FrontDesk, crew: Crew, slot: int, batch: list[Trial]) -> None:
    """Run some trials; what goes wrong with them stays with them, what goes wrong with the store does not."""
    try:
        crew.work(slot, batch, desk)
    except WorkerDied as error:
        desk.lost(batch, told(error))
    except StoreError:
        raise
    except Exception as error:
        log.info("trials %s", [trial.id for trial in batch], exc_info=True)
        desk.failed(batch, told(error))
    else:
        desk.failed(batch, "it was run, and never told how it ended")
