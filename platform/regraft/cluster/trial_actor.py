"""An actor that runs trials, and the way its calls of the coordinator reach the driver.

The calls wait in a queue of the actor. The driver takes them with a call that returns as soon as there is one, and
sends the answers back. No other process is involved, and a dead actor leaves nothing behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError

from regraft.contracts import Event
from regraft.store.scratch_folder import scratch_folder
from regraft.training.harness import LocalHarness
from regraft.tuning.driver.workers import SearchLimits, WorkStopped
from regraft.tuning.protocol import Coordinator, End, Report, SearchJob, Trial
from regraft.tuning.worker.worker import TrialWorker

DONE = "done"
"""Name of the pseudo-call that ends the calls of one task."""
WATCH_S = 0.5
"""Seconds between two looks of the driver at an actor that makes no call."""
ANSWER_S = 5.0
"""Seconds that an actor has to answer such a look."""
POLL_S = 20.0
"""Longest time that the driver's request for calls waits, in seconds."""

Call = tuple[int, str, tuple[Any, ...]]
"""Number of the call (0: the caller waits for no answer), method of the coordinator, arguments."""


class CoordinatorClient:
    """The coordinator as a worker sees it; its calls travel to the one of the driver."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()
        self._open: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._count = 0

    def _ask(self, method: str, *args: Any) -> Any:
        answer: Future[Any] = Future()
        with self._lock:
            self._count += 1
            number = self._count
            self._open[number] = answer
        self.calls.put((number, method, args))
        return answer.result()

    def answer(self, answers: Sequence[tuple[int, Any]]) -> None:
        """Hand the answers of the driver's coordinator to the callers that wait."""
        for number, value in answers:
            with self._lock:
                waiting = self._open.pop(number)
            waiting.set_result(value)

    def report(self, trial: str, report: Report) -> bool:
        """As `protocol.Coordinator`."""
        return bool(self._ask("report", trial, report))

    def reserve(self, trial: str, count: int) -> bool:
        """As `protocol.Coordinator`."""
        return bool(self._ask("reserve", trial, count))

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """As `protocol.Coordinator`."""
        self._ask("saved", trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """As `protocol.Coordinator`."""
        self._ask("ended", trial, end)

    def emit(self, event: Event) -> None:
        """As `protocol.Coordinator`; the caller does not wait."""
        self.calls.put((0, "emit", (event,)))


@ray.remote(num_cpus=1, max_restarts=0, concurrency_groups={"work": 1, "coordinator": 2, "watch": 1})
class TrialActor:
    """One worker process of a search. All trials run in the same thread; other threads carry calls and answers."""

    def __init__(self) -> None:
        self._coordinator = CoordinatorClient()
        self._worker: TrialWorker | None = None
        self._harness = LocalHarness(progress=self._coordinator.emit)
        self._scratch = ExitStack()
        self._folder = self._scratch.enter_context(scratch_folder("regraft-search-"))

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def ready(self, job: dict[str, Any]) -> None:
        """Load what all trials share."""
        try:
            made = SearchJob.read(job)
            if made.threads:
                torch.set_num_threads(made.threads)
            self._harness.pulse.begin()
            worker = TrialWorker(made, self._harness, self._folder)
            worker.prepare(self._coordinator)
            self._worker = worker
        finally:
            self._coordinator.calls.put((0, DONE, ()))

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def work(self, trials: list[Trial]) -> None:
        """Run trials to their ends."""
        try:
            assert self._worker is not None
            self._harness.pulse.begin()
            self._worker.run(trials, self._coordinator)
        finally:
            self._coordinator.calls.put((0, DONE, ()))

    @ray.method(concurrency_group="coordinator")  # type: ignore[untyped-decorator]
    def take(self) -> list[Call]:
        """Return all waiting calls; without any, wait for the next one, and return none after a while."""
        calls = self._coordinator.calls
        try:
            found = [calls.get(timeout=POLL_S)]
        except queue.Empty:
            return []
        while not calls.empty():
            found.append(calls.get())
        return found

    @ray.method(concurrency_group="coordinator")  # type: ignore[untyped-decorator]
    def answer(self, answers: list[tuple[int, Any]]) -> None:
        """Pass on the answers of the driver's coordinator."""
        self._coordinator.answer(answers)

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def stop(self, reason: str) -> bool:
        """Ask the trials to end with a checkpoint after the step under way; return whether one is."""
        self._harness.notice.give(reason)
        return self._harness.stepping

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def signs(self) -> tuple[float, float]:
        """Return the seconds since the last sign of life, and the longest time between two."""
        return self._harness.pulse.silent_s, self._harness.pulse.longest

    @ray.method(concurrency_group="coordinator")  # type: ignore[untyped-decorator]
    def clear(self) -> None:
        """Delete the scratch folder: the process is killed next, and cannot do it then."""
        self._scratch.close()


class ActorWatch:
    """The driver's look at an actor: it passes a stop on, and finds a trial that hangs when the budget is over."""

    def __init__(self, actor: Any, limits: SearchLimits, least: float | None) -> None:
        """`least` is the least time without a sign of life that counts as hanging; None for that of a trial."""
        self._actor, self._limits, self._least = actor, limits, least
        self._asked = False
        self._signs, self._seen = (0.0, 0.0), time.monotonic()

    def check(self) -> None:
        """Raises WorkStopped if the search is to stop and no step is under way, WorkerHangs if the actor hangs."""
        if self._limits.notice and not self._asked:
            self._asked = True
            if not self._ask(self._actor.stop.remote(self._limits.notice.reason), False):
                raise WorkStopped
        if self._limits.overtime() > 0:
            if signs := self._ask(self._actor.signs.remote(), None):
                self._signs, self._seen = signs, time.monotonic()
            silent, longest = self._signs
            self._limits.check_alive(silent + time.monotonic() - self._seen, longest, least=self._least)

    def _ask(self, asked: Any, otherwise: Any) -> Any:
        """Return the actor's answer; `otherwise` if it has none, because its process holds still."""
        try:
            return ray.get(asked, timeout=ANSWER_S)
        except GetTimeoutError:
            return otherwise


def answer_calls(actor: Any, running: Any, coordinator: Coordinator, watch: ActorWatch) -> None:
    """Answer an actor's calls until its task `running` has ended. Raises the error of the task, or that of `watch`."""
    ended = False
    while not ended:
        answers = []
        taken = actor.take.remote()
        watch.check()  # an actor that calls all the time is looked at too
        while not ray.wait([taken], timeout=WATCH_S)[0]:
            watch.check()
        for number, method, args in ray.get(taken):
            if method == DONE:
                ended = True
                continue
            value = getattr(coordinator, method)(*args)
            if number:
                answers.append((number, value))
        if answers:
            actor.answer.remote(answers)
    ray.get(running)


def plain(job: SearchJob) -> dict[str, Any]:
    """Return the job as plain data that any process can read."""
    return asdict(job)
