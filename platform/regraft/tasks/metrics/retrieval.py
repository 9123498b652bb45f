"""Ranks of what belongs to each input among everything that belongs to any, and metrics of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DEPTH = 10
"""Ranks beyond it count nothing in MRR and nDCG."""
RECALLS = (1, 5, 10)
_AT_ONCE = 512
"""Inputs that are compared with all candidates at once."""


def ranks_of(vectors: NDArray[np.float32], keys: NDArray[np.int64]) -> Floats:
    """Return the rank of each row's pair among all distinct candidates of all rows, from 1 on, (rows,).

    `vectors` (rows, columns, width) and `keys` (rows, columns) hold an input, its pair, and negatives; equal keys are
    equal contents. Candidates that belong to an equal input do not count. A candidate that is as near as the pair
    counts half, so that a model which answers the same for everything ranks in the middle.
    """
    rows, columns, width = vectors.shape
    flat = keys[:, 1:].T.reshape(-1)
    _, first = np.unique(flat, return_index=True)
    candidates = vectors[:, 1:].transpose(1, 0, 2).reshape(rows * (columns - 1), width)[first]
    known, found = flat[first], np.empty(rows)
    own = np.einsum("rw,rw->r", vectors[:, 0], candidates[np.searchsorted(known, keys[:, 1])])
    right = _places_of_pairs(keys, known)
    for start in range(0, rows, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        near = vectors[part, 0] @ candidates.T
        for number, row in enumerate(range(start, min(rows, start + _AT_ONCE))):
            near[number, right[int(keys[row, 0])]] = -np.inf
        limit = own[part, None].astype(np.float32)
        apart = near - limit
        close = np.abs(apart) <= 1e-6
        found[part] = 1 + ((apart > 0) & ~close).sum(1) + close.sum(1) / 2
    return found


def _places_of_pairs(keys: NDArray[np.int64], known: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Return the places in `known`, which is sorted, of what belongs to an input or equals it, by the input's key."""
    found: dict[int, set[int]] = {}
    for asked, pair in keys[:, :2].tolist():
        found.setdefault(asked, {asked}).add(pair)
    return {asked: _places_in(known, np.array(sorted(pairs))) for asked, pairs in found.items()}


def _places_in(known: NDArray[np.int64], sought: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of those numbers that are in `known`, which is sorted and not empty."""
    places = np.searchsorted(known, sought).clip(max=len(known) - 1)
    return np.asarray(places[known[places] == sought])


def of_ranks(ranks: Floats) -> dict[str, float]:
    """Return recall at 1, 5 and 10, and MRR and nDCG at 10, where one candidate is right for each input."""
    counted = np.where(ranks <= DEPTH, ranks, np.inf)
    recalls = {f"recall_at_{k}": float((ranks <= k).mean()) for k in RECALLS}
    return {
        f"ndcg_at_{DEPTH}": float((1 / np.log2(1 + counted)).mean()),
        f"mrr_at_{DEPTH}": float((1 / counted).mean()),
        **recalls,
    }


def share_by_rank(ranks: Floats) -> Sequence[tuple[str, int, float]]:
    """Return for ranges of ranks how many inputs are in each, and their share.

    A rank between two numbers, of a tie, counts as the next one: recall does not count it either.
    """
    edges = [1, 2, 6, 11, 101, np.inf]
    names = ("1", "2 to 5", "6 to 10", "11 to 100", "beyond 100")
    counts, _ = np.histogram(np.ceil(ranks), edges)
    return [(name, int(count), float(count / len(ranks))) for name, count in zip(names, counts, strict=True)]
