"""Masks as COCO's run lengths: the box around one, without making the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

_MOST_PIXELS = 100_000_000


def box_of_runs(segmentation: object) -> list[float] | None:
    """Return [x, y, width, height] of the marked pixels of {counts: ..., size: [height, width]}; None for none.

    Counts are numbers, or a text as pycocotools packs them. Pixels run down the columns; the first run is unmarked.
    """
    if not isinstance(segmentation, Mapping):
        return None
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        return None
    height, total = size[0], size[0] * size[1]
    try:
        runs = list(_unpacked(counts)) if isinstance(counts, str) else counts
    except (IndexError, OverflowError):
        return None
    if not isinstance(runs, list) or not all(type(run) is int and 0 <= run <= total for run in runs):
        return None
    if sum(runs) != total or total > _MOST_PIXELS:
        return None
    return _box_around(runs, height)


def _box_around(runs: Sequence[int], height: int) -> list[float] | None:
    """Return the box around the marked runs of columns of that height; None where nothing is marked."""
    ends = list(accumulate(runs, initial=0))
    marked = [(first, last - 1) for first, last in zip(ends[1::2], ends[2::2], strict=False) if last > first]
    if not marked:
        return None
    left, right = marked[0][0] // height, marked[-1][1] // height
    whole = any(first // height != last // height for first, last in marked)  # it goes on at the top of the next column
    top = 0 if whole else min(first % height for first, _ in marked)
    bottom = height - 1 if whole else max(last % height for _, last in marked)
    return [float(left), float(top), float(right - left + 1), float(bottom - top + 1)]


def _unpacked(text: str) -> Iterator[int]:
    """Yield the runs of a text, 5 bits a letter; from the fourth on, each is written as its change from the one before
    the last.
    """
    before: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            letter = ord(text[at]) - 48
            value |= (letter & 0x1F) << shift
            more, at, shift = bool(letter & 0x20), at + 1, shift + 5
            if not more and letter & 0x10:
                value |= -1 << shift
            if shift > 60:
                raise OverflowError("a run of too many letters")
        value += before[-2] if len(before) > 2 else 0
        before = [*before[-2:], value]
        yield value
