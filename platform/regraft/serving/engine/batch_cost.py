"""Groups of rows that share a forward pass: of like lengths, since padding costs time and so does each pass itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def group_into_passes(
    works: Sequence[Hashable], costs: Sequence[int], *, overhead: int, budget: int, max_rows: int
) -> list[list[int]]:
    """Return the positions of each pass over rows that can share one, so that all passes together cost least.

    Rows of equal work are computed once and have equal costs: tokens, or pixels. Limits as for `split_by_cost`.
    """
    distinct: dict[Hashable, list[int]] = defaultdict(list)
    for position, work in enumerate(works):
        distinct[work].append(position)
    items = [
        positions[at : at + max_rows] for positions in distinct.values() for at in range(0, len(positions), max_rows)
    ]
    items.sort(key=lambda positions: costs[positions[0]])
    slices = split_by_cost(
        [costs[positions[0]] for positions in items],
        [len(positions) for positions in items],
        overhead=overhead,
        budget=budget,
        max_rows=max_rows,
    )
    return [[position for positions in items[part] for position in positions] for part in slices]


def split_by_cost(
    costs: Sequence[int], rows: Sequence[int], *, overhead: int, budget: int, max_rows: int
) -> list[slice]:
    """Split items, each computed once, into consecutive passes that together cost least.

    `costs` are the items' tokens (or pixels) in ascending order, `rows` how many rows each item answers. A pass costs
    `overhead` tokens and pads all of its items to the longest. It holds at most `budget` tokens, padding included, and
    at most `max_rows` rows; a single item may exceed both.
    """
    least, begins = [0.0], [0]
    for stop in range(1, len(costs) + 1):
        longest, held, found = costs[stop - 1], 0, (float("inf"), 0)
        for start in range(stop - 1, -1, -1):
            held += rows[start]
            size = (stop - start) * longest
            if stop - start > 1 and (size > budget or held > max_rows):
                break
            found = min(found, (least[start] + overhead + size, start))
        least.append(found[0])
        begins.append(found[1])
    passes: list[slice] = []
    stop = len(costs)
    while stop:
        passes.append(slice(begins[stop], stop))
        stop = begins[stop]
    return passes[::-1]
