"""A job for more than a cluster can ever hold is told at once; one that an autoscaler can make room for is not."""

from __future__ import annotations

import pytest
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from regraft.cluster import capacity
from regraft.cluster.capacity import Group, check_capacity
from regraft.errors import AskedWrong

SMALL = Group({"CPU": 4, "memory": 8e9}, 3)
GPU = Group({"CPU": 16, "GPU": 2, "accelerator_type:H100": 1}, 1)


@pytest.mark.parametrize(
    ("workers", "need"),
    [(12, {"CPU": 1}), (3, {"CPU": 4}), (2, {"CPU": 8, "GPU": 1}), (2, {"GPU": 1, "accelerator_type:H100": 0.001})],
)
def test_what_fits_is_let_through(workers: int, need: dict[str, float]) -> None:
    check_capacity([SMALL, GPU], workers, need)


@pytest.mark.parametrize(
    ("workers", "need", "told"),
    [
        (3, {"GPU": 1}, "the cluster has 2 at most"),
        (2, {"CPU": 14}, "hold 1 of them at most"),
        (1, {"CPU": 1, "accelerator_type:A100": 0.001}, "accelerator_type:A100"),
        (4, {"CPU": 1, "memory": 8e9}, "memory"),
    ],
)
def test_what_never_fits_is_refused_with_what_there_is(workers: int, need: dict[str, float], told: str) -> None:
    with pytest.raises(AskedWrong, match=told):
        check_capacity([SMALL, GPU], workers, need)


def test_nodes_that_an_autoscaler_may_add_count(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClusterConfig()
    for name, cpus, gpus, most in (("head", 0, 0, 1), ("cpu", 4, 0, 3), ("gpu", 8, 1, 2)):
        group = config.node_group_configs.add(name=name, max_count=most)
        group.resources.update({"CPU": cpus, **({"GPU": gpus} if gpus else {})})
    monkeypatch.setattr(capacity.state, "get_cluster_config", lambda: config)
    alive = [Group({"node:head": 1.0}), Group({"CPU": 4.0})]
    there = [*alive, *capacity.scaled(alive)]
    assert capacity.most(there, "CPU") == 3 * 4 + 2 * 8
    assert capacity.most(there, "GPU") == 2
    check_capacity(there, 2, {"CPU": 8, "GPU": 1})
    with pytest.raises(AskedWrong):
        check_capacity(there, 3, {"CPU": 8, "GPU": 1})
