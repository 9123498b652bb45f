"""The driver's thread while workers train: pass on their progress, report what they wait for, ask them to stop."""

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
from regraft.cluster.ray_watch import is_lost
from regraft.contracts import Event, Note, Progress
from regraft.training.stop_signals import StopNotice

log = logging.getLogger(__name__)
POLL_S = 0.5
LAST_S = 30.0
"""Seconds that the last events may take to arrive."""
LEAVE_S = 1.0
"""The same where Ctrl-C ends the wait for the workers."""
WAIT_S = 10.0
"""Seconds that workers have to begin before a note says what they wait for."""
GROW_S = 30.0
"""Seconds that an elastic group trains, with free resources for more workers, before it restarts with more of them.

Longer than the 20 seconds after which Ray Train counts nodes again, or it would begin with as many as before.
"""


@dataclass(frozen=True)
class StopRequest:
    """Why the workers of an attempt were asked to stop, and whether another attempt follows at once."""

    reason: str
    restarts: bool


class AttemptMonitor:
    """One attempt seen from the driver; `stop_request` is set once its workers were asked to stop early."""

    def __init__(self, mailbox: Any, scaling: ScalingConfig, notice: StopNotice, progress: Progress | None) -> None:
        self.stop_request: StopRequest | None = None
        self._mailbox, self._notice, self._progress = mailbox, notice, progress
        self._need: capacity.Need = dict(scaling.resources_per_worker or {})
        workers = scaling.num_workers
        self._low, self._high = workers if isinstance(workers, tuple) else (workers, workers)
        self._nodes: dict[int, str] = {}
        self._began = self._checked = time.monotonic()
        self._unused_since: float | None = None
        self._waiting_note = ""
        self._interrupted = False

    def run(self, done: threading.Event) -> None:
        """Poll the workers until `done` is set, and one last time after."""
        asked = None
        while True:
            last = done.wait(POLL_S)
            earlier = asked is not None  # what came after that call is not in its answer
            try:
                asked = asked or self._mailbox.take.remote()
                # The mailbox may take long to start. A stop is passed on meanwhile.
                if ray.wait([asked], timeout=LAST_S if last else POLL_S)[0]:
                    answer, asked = asked, None
                    self._pass_on(*ray.get(answer))
                if not last:
                    self._check()
                elif earlier:
                    final = self._mailbox.take.remote()
                    if ray.wait([final], timeout=LAST_S)[0]:
                        self._pass_on(*ray.get(final))
            except Exception as error:
                # A cluster that does not answer is asked again: the attempt's own end reports what matters.
                log.debug("the cluster could not be checked: %s", error)
                asked = None
            if last:
                return

    def _pass_on(self, events: list[Event], nodes: dict[int, str]) -> None:
        if nodes and not self._nodes:
            self._began = time.monotonic()
        self._nodes = nodes
        for event in events:
            self._emit(event)

    def _emit(self, event: Event) -> None:
        if self._progress is not None:
            self._progress(event)

    def _check(self) -> None:
        if self._notice and not self._nodes:
            # No worker has begun, so none can stop at a step: interrupt as Ctrl-C does. Only once, so that the cleanup
            # it starts is not interrupted.
            if not self._interrupted:
                self._interrupted = True
                os.kill(os.getpid(), signal.SIGINT)
            return
        if self.stop_request is None and (request := self._reason_to_stop()):
            self.stop_request = request
            ray.get(self._mailbox.request_stop.remote(request.reason), timeout=30)
        if time.monotonic() - self._checked > WAIT_S:
            self._checked = time.monotonic()
            if not self._nodes:
                self._note_waiting()

    def _reason_to_stop(self) -> StopRequest | None:
        if self._notice:
            return StopRequest(self._notice.reason, restarts=False)
        if not self._nodes:
            return None
        if taken := draining() & set(self._nodes.values()):
            return StopRequest(f"{len(taken)} of the workers' nodes will be taken away", restarts=True)
        if self._can_grow():
            return StopRequest("there is room for more workers", restarts=True)
        return None

    def _can_grow(self) -> bool:
        """Return whether resources for another worker have been unused for a while."""
        if len(self._nodes) >= self._high or not capacity.fitting(capacity.free().values(), self._need):
            self._unused_since = None
            return False
        now = time.monotonic()
        self._unused_since = self._unused_since or now
        return now - self._unused_since >= GROW_S and now - self._began >= GROW_S

    def _note_waiting(self) -> None:
        fit = capacity.fitting(capacity.nodes().values(), self._need)
        if fit >= self._low:
            return
        text = f"waiting for nodes: {capacity.describe(self._need, self._low)} are asked for, {fit} fit now"
        if text != self._waiting_note:
            self._waiting_note = text
            self._emit(Note(text))


@contextmanager
def monitoring(
    mailbox: Any, scaling: ScalingConfig, notice: StopNotice, progress: Progress | None
) -> Iterator[AttemptMonitor]:
    """Run an AttemptMonitor in a thread while the block runs the workers."""
    monitor, done = AttemptMonitor(mailbox, scaling, notice, progress), threading.Event()
    thread = threading.Thread(target=monitor.run, args=(done,), daemon=True, name="regraft-watch")
    thread.start()
    patience = LAST_S
    try:
        yield monitor
    except KeyboardInterrupt:
        patience = LEAVE_S
        raise
    finally:
        done.set()
        if not is_lost():
            thread.join(timeout=patience)
