"""Run lengths that no mask has are no box, and any size of them is read in bounded work."""

from __future__ import annotations

import time
from typing import Any

import pytest

from regraft.media.pixels.run_lengths import box_of_runs


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {},
        {"counts": [1, 2, 3]},
        {"counts": [0, 6], "size": [2]},
        {"counts": [0, 6], "size": [2, "3"]},
        {"counts": [0, 6], "size": [0, 3]},
        {"counts": [0, 7], "size": [2, 3]},
        {"counts": [-1, 7], "size": [2, 3]},
        {"counts": [6], "size": [2, 3]},
        {"counts": [0, 6.0], "size": [2, 3]},
        {"counts": [0, 10**12], "size": [10**6, 10**6]},
        {"counts": "o", "size": [2, 3]},
        {"counts": "\U0001f600" * 9, "size": [2, 3]},
        {"counts": "o" * 10**6, "size": [2, 3]},
        {"counts": b"06", "size": [2, 3]},
    ],
)
def test_what_is_no_mask_has_no_box(segmentation: Any) -> None:
    assert box_of_runs(segmentation) is None


@pytest.mark.parametrize(
    ("counts", "box"),
    [
        ([0, 6], [0, 0, 3, 2]),
        ([1, 1, 4], [0, 1, 1, 1]),
        ([5, 1], [2, 1, 1, 1]),
        ([1, 2, 3], [0, 0, 2, 2]),
        ([2, 1, 1, 1, 1], [1, 0, 2, 1]),
        ("06", [0, 0, 3, 2]),
    ],
)
def test_runs_go_down_the_columns(counts: Any, box: list[float]) -> None:
    assert box_of_runs({"counts": counts, "size": [2, 3]}) == box


def test_many_runs_take_linear_time() -> None:
    begin = time.process_time()
    assert box_of_runs({"counts": [1] * 200_000, "size": [400, 500]}) == [0, 1, 500, 399]
    assert time.process_time() - begin < 2
