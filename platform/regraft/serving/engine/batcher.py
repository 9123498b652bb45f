"""A bounded queue before an engine, and which of its rows are computed next: the oldest, with the cheapest companions.

Rows that cannot be answered soon are refused at once, with the seconds after which to retry. Nothing is computed for
callers that have given up.
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
from regraft.serving.engine.batch_cost import group_into_passes
from regraft.serving.engine.engine import EncodedRow, Engine

log = logging.getLogger(__name__)

MIN_RETRY_S, MAX_RETRY_S = 0.1, 60.0
LOOKAHEAD = 2
"""Batches among whose rows companions are searched: a search among all waiting rows would take too long."""
SMOOTHING = 0.2
"""Weight of the last batch in the moving average of the speed."""


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the waiting rows and of a batch."""

    items: int = 256
    """Rows that may wait."""
    cost: Mapping[Literal["token", "pixel"], int] = field(default_factory=lambda: {"token": 1 << 17, "pixel": 1 << 26})
    """Tokens and pixels that may wait."""
    rows: int = 32
    """Rows of a batch."""
    wait_s: float = 0.0
    """How long a row may wait for others while the engine is idle: 0 answers a single row at once."""


@dataclass(frozen=True)
class ComputedBatch:
    """A batch that was computed, as its listener receives it."""

    rows: tuple[EncodedRow, ...]
    waited_s: tuple[float, ...]
    """How long each row had waited when the batch began."""
    seconds: float
    failed: int


@dataclass(frozen=True)
class QueueStats:
    """The state of a batcher's queue, and its counters."""

    waiting: int
    """Rows."""
    cost: Mapping[str, int]
    """Tokens and pixels that wait."""
    oldest_s: float
    """How long the oldest row has waited."""
    batches: int
    rows: int
    sizes: Mapping[int, int]
    """Number of batches by their rows."""
    waited_s: float
    """Sum over all computed rows."""
    refused: int
    dropped: int
    """Rows whose callers had given up."""
    computing_s: float

    def plus(self, other: QueueStats) -> QueueStats:
        """Return the state of this queue and another one together."""
        return QueueStats(
            waiting=self.waiting + other.waiting,
            cost=Counter(self.cost) + Counter(other.cost),
            oldest_s=max(self.oldest_s, other.oldest_s),
            batches=self.batches + other.batches,
            rows=self.rows + other.rows,
            sizes=Counter(self.sizes) + Counter(other.sizes),
            waited_s=self.waited_s + other.waited_s,
            refused=self.refused + other.refused,
            dropped=self.dropped + other.dropped,
            computing_s=self.computing_s + other.computing_s,
        )


class _QueuedRow:
    __slots__ = ("encoded", "future", "since", "until")

    def __init__(self, encoded: EncodedRow, until: float | None) -> None:
        self.encoded, self.until = encoded, until
        self.future: Future[Answer] = Future()
        self.since = time.monotonic()


class Batcher:
    """A bounded queue before an engine, and the one thread that computes."""

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits | None = None,
        *,
        on_batch: Callable[[ComputedBatch], None] | None = None,
    ) -> None:
        """`on_batch` is called after every batch, in the computing thread: it must be quick."""
        self._engine, self._limits, self._on_batch = engine, limits or BatchLimits(), on_batch
        self._queue: list[_QueuedRow] = []
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
        """Queue a row and return the future of its answer, which has DeadlineExceeded after `within_s` seconds.

        Cancelling the future frees the row's place. Raises Overloaded when too much waits already.
        """
        entry = _QueuedRow(encoded, None if within_s is None else time.monotonic() + within_s)
        with self._changed:
            self._refuse_when_full(encoded)
            self._queue.append(entry)
            self._cost[encoded.unit] += encoded.cost
            self._changed.notify()
        return entry.future

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new rows, answer those that wait, and stop; return whether that was done in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stats(self) -> QueueStats:
        """Return the queue's state now."""
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
        if self._closing:
            self._refused += 1
            raise Overloaded("this server is shutting down", retry_after=MIN_RETRY_S)
        if self._is_full(encoded):
            self._drop_abandoned()
        if self._is_full(encoded):
            self._refused += 1
            message = f"{len(self._queue)} rows wait already, of {self._limits.items} that may"
            raise Overloaded(message, retry_after=self._seconds_left())

    def _is_full(self, encoded: EncodedRow) -> bool:
        free = self._limits.cost[encoded.unit] - self._cost[encoded.unit]
        return len(self._queue) >= self._limits.items or (bool(self._queue) and encoded.cost > free)

    def _seconds_left(self) -> float:
        left = sum(cost / self._speed[unit] for unit, cost in self._cost.items() if self._speed.get(unit))
        return round(min(MAX_RETRY_S, max(MIN_RETRY_S, left)), 2)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                self._await_companions()
                self._drop_abandoned()
                if not self._queue:
                    if self._closing:
                        return
                    continue
                batch = self._take_batch()
            self._compute(batch)

    def _await_companions(self) -> None:
        """Wait for a full batch, at most until `wait_s` after the arrival of the oldest row."""
        while self._queue and not self._closing and len(self._queue) < self._limits.rows:
            left = self._queue[0].since + self._limits.wait_s - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _drop_abandoned(self) -> None:
        """Remove rows whose callers gave up, and rows past their deadline."""
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

    def _take_batch(self) -> list[_QueuedRow]:
        """Take the oldest row and its companions out of the queue; their futures can no longer be cancelled."""
        engine, waiting = self._engine, [entry.encoded for entry in self._queue]
        budget = engine.budget(waiting[0].unit)
        chosen = companions(waiting, overhead=engine.pass_overhead(), budget=budget, max_rows=self._limits.rows)
        positions = set(chosen)
        batch = [self._queue[position] for position in chosen]
        self._queue = [entry for position, entry in enumerate(self._queue) if position not in positions]
        for entry in batch:
            self._cost[entry.encoded.unit] -= entry.encoded.cost
        running = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
        self._dropped += len(batch) - len(running)
        return running

    def _compute(self, batch: Sequence[_QueuedRow]) -> None:
        if not batch:
            return
        started = time.monotonic()
        rows = tuple(entry.encoded for entry in batch)
        try:
            answers: Sequence[Any] = self._engine.answer(rows)
        except BaseException as error:  # a panic of an extension in Rust is no Exception, and must not end the thread
            log.exception("a batch failed")
            answers = [RunError(f"it could not be answered: {type(error).__name__}")] * len(batch)
        seconds = time.monotonic() - started
        waited = tuple(started - entry.since for entry in batch)
        self._count(rows, waited, seconds)
        for entry, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RegraftError):
                entry.future.set_exception(answer)
            else:
                entry.future.set_result(answer)
        failed = sum(isinstance(answer, RegraftError) for answer in answers)
        self._notify(ComputedBatch(rows, waited, seconds, failed))

    def _notify(self, batch: ComputedBatch) -> None:
        if self._on_batch is None:
            return
        try:
            self._on_batch(batch)
        except Exception:
            log.exception("the listener of computed batches failed")  # the next rows are answered all the same

    def _count(self, rows: Sequence[EncodedRow], waited: Sequence[float], seconds: float) -> None:
        unit, speed = rows[0].unit, sum(row.cost for row in rows) / max(seconds, 1e-6)
        with self._changed:
            before = self._speed.get(unit, speed)
            self._speed[unit] = before + SMOOTHING * (speed - before)
            self._sizes[len(rows)] += 1
            self._waited += math.fsum(waited)
            self._computing += seconds


def companions(waiting: Sequence[EncodedRow], *, overhead: int, budget: int, max_rows: int) -> list[int]:
    """Return the positions of the batch to compute next, which includes the first row's.

    The first rows of its group are split into the passes that together cost least (`batch_cost`); the batch is the pass
    that holds the oldest of them. It has at most `max_rows` rows, and `budget` tokens or pixels, padding included.
    """
    alike = [position for position, row in enumerate(waiting) if row.group == waiting[0].group][: LOOKAHEAD * max_rows]
    rows = [waiting[position] for position in alike]
    works, costs = [row.work for row in rows], [row.cost for row in rows]
    passes = group_into_passes(works, costs, overhead=overhead, budget=budget, max_rows=max_rows)
    return [alike[number] for number in next(part for part in passes if 0 in part)]
