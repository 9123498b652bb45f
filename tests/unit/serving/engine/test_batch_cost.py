"""Passes are split where they cost least, and stay within their limits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from regraft.serving.engine.batch_cost import split_by_cost


def partitions(count: int) -> Iterator[list[slice]]:
    """Yield every way to split a sequence of `count` items."""
    for cuts in range(1 << (count - 1)):
        edges = [0, *(place + 1 for place in range(count - 1) if cuts >> place & 1), count]
        yield [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def fits(costs: list[int], rows: list[int], part: slice, budget: int, max_rows: int) -> bool:
    inside = costs[part]
    return len(inside) == 1 or (len(inside) * max(inside) <= budget and sum(rows[part]) <= max_rows)


@pytest.mark.parametrize("seed", range(40))
def test_no_other_way_to_cut_them_costs_less(seed: int) -> None:
    draw = random.Random(seed)
    count, overhead = draw.randint(1, 9), draw.choice([0, 5, 32, 400])
    costs = sorted(draw.randint(1, 60) for _ in range(count))
    rows = [draw.randint(1, 4) for _ in range(count)]
    budget, max_rows = draw.choice([50, 120, 1000]), draw.choice([3, 6, 100])

    def cost(parts: list[slice]) -> int:
        return sum(overhead + len(costs[part]) * max(costs[part]) for part in parts)

    found = split_by_cost(costs, rows, overhead=overhead, budget=budget, max_rows=max_rows)
    assert [place for part in found for place in range(count)[part]] == list(range(count))
    assert all(fits(costs, rows, part, budget, max_rows) for part in found)
    allowed = (parts for parts in partitions(count) if all(fits(costs, rows, part, budget, max_rows) for part in parts))
    assert cost(found) == min(map(cost, allowed))


def test_nothing_is_no_pass() -> None:
    assert split_by_cost([], [], overhead=1, budget=1, max_rows=1) == []
