"""An actor that runs trials, and how what it tells reaches the driver.

Calls of a worker's desk wait in a queue of the actor; the driver takes them by a call that is answered as soon as there
is one, and sends the answers back. No process stands between the two, and when the actor dies nothing of it is left.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch

from regraft.training.harness import LocalHarness
from regraft.tuning.protocol import Desk, End, Report, SearchJob, Trial
from regraft.tuning.worker.worker import Workshop

DONE = "done"
"""The last word of a call that runs trials."""
PATIENCE_S = 20.0
"""How long the driver's question for calls stays open."""

Call = tuple[int, str, tuple[Any, ...], dict[str, Any]]
"""Its number (0: no answer is awaited), the desk's method, arguments."""


class FarDesk:
    """The desk as a worker sees it; calls travel to the driver's."""

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
        self.calls.put((number, method, args, {}))
        return answer.result()

    def answer(self, answers: Sequence[tuple[int, Any]]) -> None:
        """What the driver's desk said."""
        for number, value in answers:
            with self._lock:
                waiting = self._open.pop(number)
            waiting.set_result(value)

    def report(self, trial: str, report: Report) -> bool:
        """As `trials.Desk`."""
        return bool(self._ask("report", trial, report))

    def room(self, trial: str, count: int) -> bool:
        """As `trials.Desk`."""
        return bool(self._ask("room", trial, count))

    def saved(self, trial: str, prefix: str, count: int, score: float | None) -> None:
        """As `trials.Desk`."""
        self._ask("saved", trial, prefix, count, score)

    def ended(self, trial: str, end: End) -> None:
        """As `trials.Desk`."""
        self._ask("ended", trial, end)

    def say(self, event: str, **fields: Any) -> None:
        """As `trials.Desk`; nobody waits for it."""
        self.calls.put((0, "say", (event,), fields))


@ray.remote(num_cpus=1, max_restarts=0, concurrency_groups={"work": 1, "desk": 2})
class Bench:
    """One worker process of a search. Trials run in one thread, always the same; calls go in and out by others."""

    def __init__(self) -> None:
        self._desk = FarDesk()
        self._workshop: Workshop | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="regraft-search-"))

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def ready(self, job: dict[str, Any]) -> None:
        """Load what all trials share."""
        try:
            made = SearchJob(**{**job, "labels": tuple(job["labels"]), "depths": tuple(job["depths"])})
            if made.threads:
                torch.set_num_threads(made.threads)
            harness = LocalHarness(progress=lambda event: self._desk.say(**event))
            workshop = Workshop(made, harness, self._folder)
            workshop.prepare(self._desk)
            self._workshop = workshop
        finally:
            self._desk.calls.put((0, DONE, (), {}))

    @ray.method(concurrency_group="work")  # type: ignore[untyped-decorator]
    def work(self, trials: list[Trial]) -> None:
        """Run trials to their ends."""
        try:
            assert self._workshop is not None
            self._workshop.run(trials, self._desk)
        finally:
            self._desk.calls.put((0, DONE, (), {}))

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    def take(self) -> list[Call]:
        """Every call that waits; when none does, the next one, or none after a while."""
        calls = self._desk.calls
        try:
            found = [calls.get(timeout=PATIENCE_S)]
        except queue.Empty:
            return []
        while not calls.empty():
            found.append(calls.get())
        return found

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    def answer(self, answers: list[tuple[int, Any]]) -> None:
        """What the driver's desk said to calls."""
        self._desk.answer(answers)

    @ray.method(concurrency_group="desk")  # type: ignore[untyped-decorator]
    def clear(self) -> None:
        """Leave nothing on the node: the process is ended next, and does not get to it any more."""
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(actor: Any, running: Any, desk: Desk) -> None:
    """Answer an actor's calls until what it runs has ended; raises what that raised."""
    ended = False
    while not ended:
        answers = []
        for number, method, args, fields in ray.get(actor.take.remote()):
            if method == DONE:
                ended = True
                continue
            value = getattr(desk, method)(*args, **fields)
            if number:
                answers.append((number, value))
        if answers:
            actor.answer.remote(answers)
    ray.get(running)


def plain(job: SearchJob) -> dict[str, Any]:
    """The job as data that any process can read."""
    return asdict(job)
