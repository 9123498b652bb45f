"""Number and resources of a search's workers, by existing nodes and by those that may be added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from regraft.cluster import capacity
from regraft.cluster.search import pool_size
from regraft.errors import RequestError
from regraft.spec.run import RunSpec
from support.tiny import document


def spec(folder: Path, **search: Any) -> RunSpec:
    space = {"method": {"grid": ["feature-extraction", "lora"]}}
    return RunSpec.resolve(
        document(folder) | {"compute": {"workers": 1}, "search": {"space": space, "trials": 9, **search}}
    )


def cluster(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], comes: bool) -> list[int]:
    """Fake a cluster with these nodes; return the list of workers that its autoscaler is asked for."""
    asked: list[int] = []
    monkeypatch.setattr(capacity, "nodes", lambda: dict(enumerate(nodes)))
    monkeypatch.setattr(capacity, "autoscales", lambda: comes)
    monkeypatch.setattr(capacity, "can_be_added", lambda need, low, progress: asked.append(low) or comes)
    return asked


def test_without_a_node_a_search_asks_the_autoscaler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cluster(monkeypatch, {"memory": 1e9}, comes=True)
    assert pool_size(spec(tmp_path)).slots == 1
    assert pool_size(spec(tmp_path, concurrency=3)).slots == 3
    assert asked == [1, 3]
    cluster(monkeypatch, {"memory": 1e9}, comes=False)
    with pytest.raises(RequestError, match="the cluster has 0 CPU"):
        pool_size(spec(tmp_path))


def test_a_worker_is_no_larger_than_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cluster(monkeypatch, {"CPU": 8, "GPU": 1}, {"CPU": 16}, {"CPU": 16}, comes=False)
    size = pool_size(spec(tmp_path))
    assert (size.slots, size.cpus, size.gpus) == (1, 8.0, 1.0)
    assert asked == []
