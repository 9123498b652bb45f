"""Passes are cut where they cost least, and hold no more than they may."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from regraft.serving.engine.batch_cost import split


def partitions(count: int) -> Iterator[list[slice]]:
    """Every way to cut a row of so many things."""
    for cuts in range(1 << (count - 1)):
        edges = [0, *(place + 1 for place in range(count - 1) if cuts >> place & 1), count]
        yield [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def fits(costs: list[int], rows: list[int], part: slice, budget: int, most: int) -> bool:
    inside = costs[part]
    return len(inside) == 1 or (len(inside) * max(inside) <= budget and sum(rows[part]) <= most)


@pytest.mark.parametrize("seed", range(40))
def test_no_other_way_to_cut_them_costs_less(seed: int) -> None:
    draw = random.Random(seed)
    count, price = draw.randint(1, 9), draw.choice([0, 5, 32, 400])
    costs = sorted(draw.randint(1, 60) for _ in range(count))
    rows = [draw.randint(1, 4) for _ in range(count)]
    budget, most = draw.choice([50, 120, 1000]), draw.choice([3, 6, 100])

    def cost(parts: list[slice]) -> int:
        return sum(price + len(costs[part]) * max(costs[part]) for part in parts)

    found = split(costs, rows, price=price, budget=budget, most=most)
    assert [place for part in found for place in range(count)[part]] == list(range(count))
    assert all(fits(costs, rows, part, budget, most) for part in found)
    allowed = (parts for parts in partitions(count) if all(fits(costs, rows, part, budget, most) for part in parts))
    assert cost(found) == min(map(cost, allowed))


def test_nothing_is_no_pass() -> None:
    assert split([], [], price=1, budget=1, most=1) == []
