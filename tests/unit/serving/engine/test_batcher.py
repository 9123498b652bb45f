"""The queue is bounded, the oldest row goes first, and nothing is computed for callers that have given up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import DeadlineExceeded, Overloaded, RegraftError
from regraft.serving.engine.batcher import Batcher, BatchLimits, ComputedBatch, companions
from regraft.serving.engine.dummy_rows import close
from regraft.serving.engine.engine import EncodedRow, Engine, RowRequest
from unit.serving.tiny import SPOKEN, publish


class Gated(Engine):
    """An engine that computes only once its gate is open."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begun, self.go = threading.Event(), threading.Event()
        self.batches: list[list[EncodedRow]] = []

    def pass_overhead(self) -> int:
        return 16  # independent of the number of threads

    def answer(self, items: Sequence[EncodedRow]) -> list[Any]:
        self.begun.set()
        assert self.go.wait(60)
        self.batches.append(list(items))
        return super().answer(items)


@pytest.fixture(scope="module")
def models(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("models")
    for number, (name, way) in enumerate((("head", "feature-extraction"), ("low", "lora"), ("all", "full"))):
        publish(store, bases["mean"], "text-classification", way, name, seed=number)
    return store


@pytest.fixture
def engine(models: Path) -> Iterator[Gated]:
    made = Gated(str(models), device="cpu")
    yield made
    made.go.set()


def row(engine: Engine, words: int = 3, model: str = "low") -> EncodedRow:
    return engine.encode(RowRequest(model, "v1", {"text": " ".join(SPOKEN.split()[:words])}))


def held(engine: Gated, batcher: Batcher) -> Future[Any]:
    """Submit a row that is being computed until the gate opens."""
    future = batcher.submit(row(engine))
    assert engine.begun.wait(30)
    return future


def test_everybody_gets_the_answer_to_what_they_asked(engine: Gated) -> None:
    engine.go.set()
    draw, words = random.Random(0), SPOKEN.split()
    asked = [
        RowRequest(
            draw.choice(["head", "low", "all"]), "v1", {"text": " ".join(draw.choices(words, k=draw.randint(1, 30)))}
        )
        for _ in range(150)
    ]
    batcher = Batcher(engine)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda ask: batcher.submit(engine.encode(ask)).result(60), asked))
    assert batcher.close(60)
    wanted = [Engine.answer(engine, [engine.encode(ask)])[0] for ask in asked]
    assert all(close(one, other, 1e-5) for one, other in zip(wanted, found, strict=True))
    stats = batcher.stats()
    assert stats.rows == 150 and stats.waiting == 0 and not stats.cost and stats.refused == 0
    assert sum(size * count for size, count in stats.sizes.items()) == 150


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(engine: Gated) -> None:
    batcher = Batcher(engine, BatchLimits(items=3))
    first = held(engine, batcher)
    waiting = [batcher.submit(row(engine)) for _ in range(3)]
    started = time.monotonic()
    with pytest.raises(Overloaded, match="3 rows wait already, of 3") as caught:
        batcher.submit(row(engine))
    assert time.monotonic() - started < 1 and caught.value.retry_after > 0
    assert batcher.stats().refused == 1 and batcher.stats().waiting == 3
    engine.go.set()
    assert all("label" in future.result(30) for future in (first, *waiting))
    assert "label" in batcher.submit(row(engine)).result(30)
    assert batcher.close(30)


def test_a_queue_is_bounded_by_tokens_too(engine: Gated) -> None:
    long = row(engine, 18)
    batcher = Batcher(engine, BatchLimits(cost={"token": 2 * long.cost, "pixel": 1}))
    first = held(engine, batcher)
    waiting = [batcher.submit(long), batcher.submit(long)]
    with pytest.raises(Overloaded):
        batcher.submit(row(engine, 1))
    assert batcher.stats().cost == {"token": 2 * long.cost}
    engine.go.set()
    assert all(future.result(30) for future in (first, *waiting))
    assert batcher.close(30)


def test_a_row_that_nothing_could_ever_hold_is_taken_when_nothing_waits(engine: Gated) -> None:
    engine.go.set()
    batcher = Batcher(engine, BatchLimits(cost={"token": 1, "pixel": 1}))
    assert "label" in batcher.submit(row(engine, 18)).result(30)
    assert batcher.close(30)


def test_nothing_is_computed_for_those_who_are_gone(engine: Gated) -> None:
    batcher = Batcher(engine, BatchLimits(items=3))
    first = held(engine, batcher)
    gone, late, stays = (
        batcher.submit(row(engine)),
        batcher.submit(row(engine), within_s=0.0),
        batcher.submit(row(engine)),
    )
    assert gone.cancel()
    # Their places are free at once, although nothing was computed meanwhile.
    more = [batcher.submit(row(engine)) for _ in range(2)]
    with pytest.raises(Overloaded):
        batcher.submit(row(engine))
    engine.go.set()
    assert all("label" in future.result(30) for future in (first, stays, *more))
    with pytest.raises(CancelledError):
        gone.result(0)
    with pytest.raises(DeadlineExceeded):
        late.result(30)
    assert batcher.close(30)
    assert sum(map(len, engine.batches)) == 4 and batcher.stats().dropped == 2


def test_closing_answers_what_waits_and_takes_nothing_more(engine: Gated) -> None:
    batcher = Batcher(engine)
    first = held(engine, batcher)
    waiting = [batcher.submit(row(engine, words)) for words in (1, 5, 18)]
    assert not batcher.close(0.1)
    with pytest.raises(Overloaded, match="shutting down"):
        batcher.submit(row(engine))
    engine.go.set()
    assert batcher.close(30)
    assert all("label" in future.result(0) for future in (first, *waiting))


def test_rows_of_like_length_go_together_and_the_oldest_goes_first(engine: Gated) -> None:
    batcher = Batcher(engine)
    first = held(engine, batcher)
    words = (18, 2, 17, 3, 2, 18, 3, 16, 1)
    waiting = [batcher.submit(row(engine, count)) for count in words]
    waiting.append(batcher.submit(row(engine, 18, "all")))  # of another group, which has a pass of its own
    engine.go.set()
    assert all(future.result(30) for future in (first, *waiting))
    assert batcher.close(30)
    lengths = [sorted(item.cost for item in batch) for batch in engine.batches[1:]]
    assert lengths == [[18, 19, 20, 20], [3, 4, 4, 5, 5], [20]]


def test_a_lone_row_waits_for_others_only_as_long_as_it_may(engine: Gated) -> None:
    engine.go.set()
    batcher = Batcher(engine, BatchLimits(wait_s=0.5))
    futures = [batcher.submit(row(engine)), batcher.submit(row(engine, 4))]
    assert all(future.result(30) for future in futures)
    assert [len(batch) for batch in engine.batches] == [2]
    assert batcher.close(30)


def test_a_row_that_fails_gives_its_own_caller_the_error_and_batches_are_reported(engine: Gated) -> None:
    heard: list[ComputedBatch] = []
    batcher = Batcher(engine, on_batch=heard.append)
    first, good = held(engine, batcher), row(engine)
    bad = replace(good, example={**good.example, "input_ids": [10**6] * good.cost}, key=object())
    futures = [batcher.submit(good), batcher.submit(bad)]
    engine.go.set()
    assert "label" in futures[0].result(30) and first.result(30)
    with pytest.raises(RegraftError, match="could not be answered"):
        futures[1].result(30)
    assert batcher.close(30)
    assert [(len(batch.rows), batch.failed) for batch in heard] == [(1, 0), (2, 1)]
    assert all(wait >= 0 for batch in heard for wait in batch.waited_s) and all(batch.seconds > 0 for batch in heard)


def test_a_listener_that_fails_stops_nothing(engine: Gated, caplog: pytest.LogCaptureFixture) -> None:
    def listener(batch: ComputedBatch) -> None:
        raise ValueError("a listener's own")

    engine.go.set()
    batcher = Batcher(engine, on_batch=listener)
    assert all("label" in batcher.submit(row(engine)).result(30) for _ in range(2))
    assert batcher.close(30)
    assert "the listener of computed batches failed" in caplog.text


ROWS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 40), st.integers(1, 2000))
def test_a_batch_holds_the_oldest_and_its_likes_within_the_budget(
    given_rows: list[tuple[int, int, int]], max_rows: int, budget: int
) -> None:
    waiting: list[Any] = [
        SimpleNamespace(cost=cost, group=group, work=(cost, key), unit="token") for cost, group, key in given_rows
    ]
    taken = partial(companions, overhead=32, budget=budget, max_rows=max_rows)
    chosen = taken(waiting)
    rows = [waiting[place] for place in chosen]
    assert 0 in chosen and len(set(chosen)) == len(chosen) <= max_rows
    assert {one.group for one in rows} == {waiting[0].group}
    costs = [one.cost for one in rows]
    works = {one.work: one.cost for one in rows}
    assert len(works) == 1 or max(costs) * len(works) <= budget
    assert 32 + max(costs) * len(works) <= sum(32 + cost for cost in works.values()), "apart costs no less"
    # All waiting rows are computed after at most as many batches.
    turns = 0
    while waiting:
        places = set(taken(waiting))
        waiting = [one for place, one in enumerate(waiting) if place not in places]
        turns += 1
    assert turns <= len(given_rows)
