"""Stored rows are read back unchanged, and partial shards of a dead run are deleted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.store.objects import open_store
from regraft.trunk.cost_model import CacheLimits, CachePlacement, CutCosts, Where, choose_placement
from regraft.trunk.feature_store import HASH, Features, collect

DAY_S = 86400.0


def hashes(count: int) -> np.ndarray:
    return np.array([bytes([number % 250 + 1, number // 250 + 1]) * (HASH // 2) for number in range(count)], f"S{HASH}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_rows_of_several_shapes_come_back_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    store, names = open_store(str(tmp_path / "store")), hashes(700)
    rows = [(torch.randn(number % 5, 3) * 2).to(dtype) for number in range(700)]
    found = Features(store, "a" * 32)
    with found.writer(tmp_path) as writer:
        for name, values in zip(names, rows, strict=True):
            writer.add(bytes(name), values)
    found.refresh()
    places = found.find(names)
    assert (places[:, 0] >= 0).all()
    for place, values in zip(places, rows, strict=True):
        assert torch.equal(found.read(place, dtype), values)
    assert (found.find(hashes(701)[700:])[:, 0] < 0).all()


def test_a_shard_that_was_not_committed_is_collected_after_a_day(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("old", "new"):
        store.put(f"features/{'a' * 32}/{name}/features.arrow", b"half")
    os.utime(tmp_path / "features" / ("a" * 32) / "old" / "features.arrow", (0, 0))
    found = Features(store, "b" * 32)
    with found.writer(tmp_path) as writer:
        writer.add(bytes(hashes(1)[0]), torch.zeros(3))
    gone, kept = collect(store, DAY_S)
    assert gone == [f"features/{'a' * 32}/old/"]
    assert kept > 12
    assert len(list(store.list("features/"))) == 3


def limits(passes: float = 3, asked: bool = False, room: int = 10**9, budget: int = 10**9) -> CacheLimits:
    free: dict[Where, int] = {"disk": room, "memory": room}
    return CacheLimits(budget, free, passes, asked)


def choose(compute_s: float, join_s: float, row_bytes: float, total: int, limits: CacheLimits) -> CachePlacement:
    return choose_placement(CutCosts(compute_s, join_s, {}), row_bytes, total, limits)


def test_a_plan_keeps_what_is_read_quicker_than_computed() -> None:
    assert choose(1.0, 0.1, 100, 10, limits()).where == "disk"
    assert choose(1.0, 1.2, 100, 10, limits()).where == "recompute"
    assert choose(1.0, 1.2, 100, 10, limits(asked=True)).where == "disk"


def test_a_plan_counts_the_passes() -> None:
    assert choose(1.0, 0.6, 100, 10, limits(passes=2)).where == "recompute"
    assert choose(1.0, 0.6, 100, 10, limits(passes=10)).where == "disk"


def test_a_plan_keeps_to_what_is_free_and_allowed() -> None:
    assert "compute.trunk_gb" in choose(1.0, 0.1, 100, 10, limits(budget=999)).why
    assert "half of what is free" in choose(1.0, 0.1, 100, 10, limits(room=999)).why
