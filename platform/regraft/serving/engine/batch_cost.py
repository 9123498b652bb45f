"""Which rows share a pass? Like lengths together: every pass has its price, and so has every padded place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence


def together(works: Sequence[Hashable], costs: Sequence[int], *, price: int, budget: int, most: int) -> list[list[int]]:
    """Places of each pass over rows that can share one, so that all passes cost least.

    Rows of one work are computed once and have one cost: tokens, or pixels. The rest is as for `split`.
    """
    once: dict[Hashable, list[int]] = defaultdict(list)
    for place, work in enumerate(works):
        once[work].append(place)
    parts = [places[at : at + most] for places in once.values() for at in range(0, len(places), most)]
    parts.sort(key=lambda places: costs[places[0]])
    cuts = split(
        [costs[places[0]] for places in parts], [len(places) for places in parts], price=price, budget=budget, most=most
    )
    return [[place for places in parts[cut] for place in places] for cut in cuts]


def split(costs: Sequence[int], rows: Sequence[int], *, price: int, budget: int, most: int) -> list[slice]:
    """Passes over things that are computed once each, the cheapest first: slices that cost least in all.

    `costs` are tokens (or pixels) of each, ascending, and `rows` how many rows each answers. A pass takes `price`
    tokens and pads all of its things to the longest; it has `budget` tokens, padding included, and `most` rows at the
    most, or one thing.
    """
    least, begins = [0.0], [0]
    for stop in range(1, len(costs) + 1):
        longest, held, found = costs[stop - 1], 0, (float("inf"), 0)
        for start in range(stop - 1, -1, -1):
            held += rows[start]
            size = (stop - start) * longest
            if stop - start > 1 and (size > budget or held > most):
                break
            found = min(found, (least[start] + price + size, start))
        least.append(found[0])
        begins.append(found[1])
    passes: list[slice] = []
    stop = len(costs)
    while stop:
        passes.append(slice(begins[stop], stop))
        stop = begins[stop]
    return passes[::-1]
