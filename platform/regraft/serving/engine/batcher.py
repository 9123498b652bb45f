"""Which waiting rows are computed next, together? The oldest, with those that it costs least to compute beside it.

The queue is bounded: what cannot be answered soon is refused at once, with the seconds after which there should be
room. Nothing is computed for callers who are gone.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, Literal

from regraft.contracts import Answer
from regraft.errors import DeadlineExceeded, Overloaded, RegraftError, RunError
from regraft.serving.engine.batch_cost import together
from regraft.serving.engine.engine import EncodedRow, Engine

log = logging.getLogger(__name__)

LEAST_RETRY_S, MOST_RETRY_S = 0.1, 60.0
AHEAD = 2
"""Batches among whose rows companions are looked for: among all that wait it would take long to look."""
SHARE = 0.2
"""Of the last batch in the estimate of how fast rows are computed."""


@dataclass(frozen=True)
class BatchLimits:
    """How much may wait, and how much is computed at once."""

    items: int = 256
    """Rows that may wait."""
    cost: Mapping[Literal["token", "pixel"], int] = field(default_factory=lambda: {"token": 1 << 17, "pixel": 1 << 26})
    """Tokens and pixels that may wait."""
    rows: int = 32
    """Rows of a batch."""
    wait_s: float = 0.0
    """For how long a row may wait for others while nothing is computed: 0 answers a lone row at once."""


@dataclass(frozen=True)
class ComputedBatch:
    """What is told of a batch that was computed."""

    rows: tuple[EncodedRow, ...]
    waited_s: tuple[float, ...]
    """How long each had waited when the batch began."""
    seconds: float
    failed: int


@dataclass(frozen=True)
class QueueStats:
    """How a batcher stands and what it did."""

    waiting: int
    """Rows."""
    cost: Mapping[str, int]
    """Tokens and pixels that wait."""
    oldest_s: float
    """How long the oldest has waited."""
    batches: int
    rows: int
    sizes: Mapping[int, int]
    """How many batches had so many rows."""
    waited_s: float
    """By all rows that were computed, together."""
    refused: int
    dropped: int
    """Rows that nobody waited for any more."""
    computing_s: float


class _Waiting:
    __slots__ = ("encoded", "future", "since", "until")

    def __init__(self, encoded: EncodedRow, until: float | None) -> None:
        self.encoded, self.until = encoded, until
        self.future: Future[Answer] = Future()
        self.since = time.monotonic()


class Batcher:
    """A bounded queue before an engine, and the one thread that computes."""

    def __init__(
        self, engine: Engine, limits: BatchLimits | None = None, *, told: Callable[[ComputedBatch], None] | None = None
    ) -> None:
        """`told` hears of every batch, in the computing thread: it must be quick."""
        self._engine, self._limits, self._told = engine, limits or BatchLimits(), told
        self._queue: list[_Waiting] = []
        """The oldest first."""
        self._changed = Condition()
        self._closing = False
        self._speed: dict[str, float] = {}
        """Tokens and pixels a second."""
        self._cost: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._waited = self._computing = 0.0
        self._refused = self._dropped = 0
        self._thread = Thread(target=self._run, name="regraft-batcher", daemon=True)
        self._thread.start()

    def submit(self, encoded: EncodedRow, *, within_s: float | None = None) -> Future[Answer]:
        """The row's answer, or its error, when it is computed; DeadlineExceeded after `within_s` seconds without.

        Cancelling the future gives the row's place back. Raises Overloaded when too much waits already.
        """
        entry = _Waiting(encoded, None if within_s is None else time.monotonic() + within_s)
        with self._changed:
            self._refuse_when_full(encoded)
            self._queue.append(entry)
            self._cost[encoded.unit] += encoded.cost
            self._changed.notify()
        return entry.future

    def close(self, timeout_s: float | None = None) -> bool:
        """Take nothing more, answer what waits, end; whether that was done in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> QueueStats:
        """How it stands now."""
        with self._changed:
            return QueueStats(
                waiting=len(self._queue),
                cost={unit: cost for unit, cost in self._cost.items() if cost},
                oldest_s=time.monotonic() - self._queue[0].since if self._queue else 0.0,
                batches=sum(self._sizes.values()),
                rows=sum(size * count for size, count in self._sizes.items()),
                sizes=dict(self._sizes),
                waited_s=self._waited,
                refused=self._refused,
                dropped=self._dropped,
                computing_s=self._computing,
            )

    def _refuse_when_full(self, encoded: EncodedRow) -> None:
        room = self._limits.cost[encoded.unit] - self._cost[encoded.unit]
        if self._closing:
            self._refused += 1
            raise Overloaded("this server is about to end", retry_after=LEAST_RETRY_S)
        if len(self._queue) >= self._limits.items or (self._queue and encoded.cost > room):
            self._sweep()  # those who are gone hold no place
            room = self._limits.cost[encoded.unit] - self._cost[encoded.unit]
        if len(self._queue) >= self._limits.items or (self._queue and encoded.cost > room):
            self._refused += 1
            told = f"{len(self._queue)} rows wait already, of {self._limits.items} that may"
            raise Overloaded(told, retry_after=self._seconds_left())

    def _seconds_left(self) -> float:
        left = sum(cost / self._speed[unit] for unit, cost in self._cost.items() if self._speed.get(unit))
        return round(min(MOST_RETRY_S, max(LEAST_RETRY_S, left)), 2)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                self._await_others()
                self._sweep()
                if not self._queue:
                    if self._closing:
                        return
                    continue
                batch = self._taken()
            self._compute(batch)

    def _await_others(self) -> None:
        """Give a lone row company, within `wait_s` of its arrival."""
        while self._queue and not self._closing and len(self._queue) < self._limits.rows:
            left = self._queue[0].since + self._limits.wait_s - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _sweep(self) -> None:
        """Take away rows whose callers gave up, and those whose time is over."""
        now = time.monotonic()
        kept = []
        for entry in self._queue:
            late = entry.until is not None and now > entry.until
            if not late and not entry.future.cancelled():
                kept.append(entry)
                continue
            self._dropped += 1
            self._cost[entry.encoded.unit] -= entry.encoded.cost
            if late and entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(
                    DeadlineExceeded("no time was left to answer", where=str(entry.encoded.served))
                )
        self._queue = kept

    def _taken(self) -> list[_Waiting]:
        """The oldest with its likes, out of the queue and no longer to be cancelled."""
        engine, waiting = self._engine, [entry.encoded for entry in self._queue]
        budget = engine.budget(waiting[0].unit)
        chosen = companions(waiting, price=engine.price(), budget=budget, most=self._limits.rows)
        places = set(chosen)
        batch = [self._queue[place] for place in chosen]
        self._queue = [entry for place, entry in enumerate(self._queue) if place not in places]
        for entry in batch:
            self._cost[entry.encoded.unit] -= entry.encoded.cost
        running = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        self._dropped += len(batch) - len(running)
        return running

    def _compute(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        began = time.monotonic()
        rows = tuple(entry.encoded for entry in batch)
        try:
            answers: Sequence[Any] = self._engine.answer(rows)
        except Exception as error:
            log.exception("a batch failed")
            answers = [RunError(f"it could not be answered: {type(error).__name__}")] * len(batch)
        seconds = time.monotonic() - began
        waited = tuple(began - entry.since for entry in batch)
        self._count(rows, waited, seconds)
        for entry, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RegraftError):
                entry.future.set_exception(answer)
            else:
                entry.future.set_result(answer)
        failed = sum(isinstance(answer, RegraftError) for answer in answers)
        try:
            if self._told is not None:
                self._told(ComputedBatch(rows, waited, seconds, failed))
        except Exception:
            log.exception("whoever is told of batches failed")  # the next rows are answered all the same

    def _count(self, rows: Sequence[EncodedRow], waited: Sequence[float], seconds: float) -> None:
        unit, speed = rows[0].unit, sum(row.cost for row in rows) / max(seconds, 1e-6)
        with self._changed:
            before = self._speed.get(unit, speed)
            self._speed[unit] = before + SHARE * (speed - before)
            self._sizes[len(rows)] += 1
            self._waited += math.fsum(waited)
            self._computing += seconds


def companions(waiting: Sequence[EncodedRow], *, price: int, budget: int, most: int) -> list[int]:
    """Places of the batch that is computed next, the first one's own among them.

    The first rows of its group are cut into passes that cost least in all (`splitting`); the batch is the pass that
    holds the oldest of them. It has `most` rows at most, and `budget` tokens or pixels, padding included.
    """
    likes = [place for place, row in enumerate(waiting) if row.group == waiting[0].group][: AHEAD * most]
    rows = [waiting[place] for place in likes]
    works, costs = [row.work for row in rows], [row.cost for row in rows]
    passes = together(works, costs, price=price, budget=budget, most=most)
    return [likes[number] for number in next(part for part in passes if 0 in part)]
