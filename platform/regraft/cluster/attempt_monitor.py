"""What the driver does while workers train: hand on their progress, tell what is waited for, ask them to leave."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import ScalingConfig

from regraft.cluster import capacity
from regraft.cluster.connect import draining
from regraft.contracts import Event, Note, Progress
from regraft.training.stop_signals import StopNotice

log = logging.getLogger(__name__)
POLL_S = 0.5
WAIT_S = 10.0
"""How long workers may take to begin before it is told what they wait for."""
GROW_S = 30.0
"""How long an elastic group trains, and room for more lies unused, before it is begun again with more workers: longer
than the 20 seconds after which Ray Train counts nodes anew, or it would begin with as many as before."""


@dataclass(frozen=True)
class Leaving:
    """Why workers were asked to end, and whether others go on at once."""

    reason: str
    elsewhere: bool


class Watch:
    """One attempt seen from the driver; `leaving` says whether its workers were asked to end before their work was."""

    def __init__(self, mailbox: Any, scaling: ScalingConfig, notice: StopNotice, progress: Progress | None) -> None:
        self.leaving: Leaving | None = None
        self._mailbox, self._notice, self._progress = mailbox, notice, progress
        self._need: capacity.Need = dict(scaling.resources_per_worker or {})
        workers = scaling.num_workers
        self._low, self._high = workers if isinstance(workers, tuple) else (workers, workers)
        self._homes: dict[int, str] = {}
        self._began = self._looked = time.monotonic()
        self._unused_since: float | None = None
        self._told = ""
        self._interrupted = False

    def run(self, done: threading.Event) -> None:
        """Until done, and once more after."""
        while True:
            last = done.wait(POLL_S)
            try:
                events, homes = ray.get(self._mailbox.take.remote(), timeout=30)
                self._hand_on(events, homes)
                if not last:
                    self._look()
            except Exception as error:
                # A cluster that does not answer now is asked again: what matters is told by the attempt's own end.
                log.debug("the cluster could not be looked at: %s", error)
            if last:
                return

    def _hand_on(self, events: list[Event], homes: dict[int, str]) -> None:
        if homes and not self._homes:
            self._began = time.monotonic()
        self._homes = homes
        for event in events:
            self._emit(event)

    def _emit(self, event: Event) -> None:
        if self._progress is not None:
            self._progress(event)

    def _look(self) -> None:
        if self._notice and not self._homes:
            # Nobody has begun, so nobody can leave: as Ctrl-C, and once, since what it sets off must not be broken off.
            if not self._interrupted:
                self._interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
            return
        if self.leaving is None and (leaving := self._reason()):
            self.leaving = leaving
            ray.get(self._mailbox.ask_to_leave.remote(leaving.reason), timeout=30)
        if time.monotonic() - self._looked > WAIT_S:
            self._looked = time.monotonic()
            if not self._homes:
                self._tell_what_is_waited_for()

    def _reason(self) -> Leaving | None:
        if self._notice:
            return Leaving(self._notice.reason, elsewhere=False)
        if not self._homes:
            return None
        if taken := draining() & set(self._homes.values()):
            return Leaving(f"{len(taken)} of the workers' nodes will be taken away", elsewhere=True)
        if self._could_grow():
            return Leaving("there is room for more workers", elsewhere=True)
        return None

    def _could_grow(self) -> bool:
        """Whether room for another worker has been unused for a while."""
        if len(self._homes) >= self._high or not capacity.room(capacity.free().values(), self._need):
            self._unused_since = None
            return False
        now = time.monotonic()
        self._unused_since = self._unused_since or now
        return now - self._unused_since >= GROW_S and now - self._began >= GROW_S

    def _tell_what_is_waited_for(self) -> None:
        fit = capacity.room(capacity.nodes().values(), self._need)
        if fit >= self._low:
            return
        text = f"waiting for nodes: {capacity.told(self._need, self._low)} are asked for, {fit} fit now"
        if text != self._told:
            self._told = text
            self._emit(Note(text))


@contextmanager
def watching(mailbox: Any, scaling: ScalingConfig, notice: StopNotice, progress: Progress | None) -> Iterator[Watch]:
    """Watch the workers while they work."""
    watch, done = Watch(mailbox, scaling, notice, progress), threading.Event()
    thread = threading.Thread(target=watch.run, args=(done,), daemon=True, name="regraft-watch")
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join(timeout=30)
