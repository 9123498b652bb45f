"""Large pictures take turns: few pixels are held at once, in the order in which they come, and none is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from regraft.endpoint.fair_shares import FairShares
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.picture_turns import PixelLane
from support.coroutines import run_apart

MOST = 20


async def held(lane: PixelLane, pixels: int, seconds: float, seen: list[int], most: list[int]) -> None:
    async with lane.taken(pixels):
        seen.append(pixels)
        most.append(sum(seen))
        try:
            await asyncio.sleep(seconds)
        finally:
            seen.remove(pixels)


@pytest.mark.parametrize("seed", range(5))
def test_no_more_pixels_are_held_than_may_be(seed: int) -> None:
    draw = random.Random(seed)

    async def work() -> list[int]:
        lane, seen, most = PixelLane(MOST), list[int](), list[int]()
        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(held(lane, draw.randint(1, MOST), draw.random() / 2000, seen, most)))
            await asyncio.sleep(draw.random() / 2000)
            if draw.random() < 0.3:
                draw.choice(tasks).cancel()  # a client that closes its connection
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), lane.taken(MOST):  # nothing is left held
            return most

    assert max(run_apart(work())) <= MOST


def test_a_refusal_after_waiting_names_limit_and_way() -> None:
    async def work() -> None:
        lane = PixelLane(MOST * 1_000_000, wait_s=0.01)
        async with lane.taken(15_000_000):
            with pytest.raises(HttpError) as refused:
                async with lane.taken(6_000_000):
                    pass
            async with lane.taken(5_000_000):  # the one that left is in nobody's way
                pass
        assert refused.value.status == 503 and refused.value.headers()["retry-after"]
        assert "15 megapixels are being answered, and 20 are at once" in refused.value.document()["error"]

    run_apart(work())


def test_a_request_of_more_than_all_pixels_is_answered_alone() -> None:
    async def work() -> None:
        async with asyncio.timeout(1), PixelLane(MOST).taken(1000):
            pass

    run_apart(work())


def test_a_request_of_many_places_is_admitted_alone_and_bounded_beside_others() -> None:
    shares = FairShares(10)
    assert shares.admits("one", 12)
    shares.take("one", 8)
    assert not shares.admits("two", 3)
    assert shares.admits("two", 2)
    shares.take("two", 2)
    shares.give("one", 8)
    assert not shares.admits("two", 4) and shares.admits("two", 3)
