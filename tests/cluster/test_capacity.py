"""Workers that fit on nodes, default resources of a worker, and requests that an autoscaler calls infeasible."""

from __future__ import annotations

import pytest
from ray.core.generated import autoscaler_pb2

from regraft.cluster import capacity
from regraft.spec.sections import ComputeSpec

TWO_OF_FOUR = {"a": {"CPU": 4.0, "memory": 8.0}, "b": {"CPU": 4.0, "memory": 8.0}, "head": {"memory": 8.0}}


@pytest.mark.parametrize(
    ("need", "fit"),
    [
        ({"CPU": 1.0}, 8),
        ({"CPU": 3.0}, 2),
        ({"CPU": 5.0}, 0),
        ({"CPU": 1.0, "GPU": 1.0}, 0),
        ({"CPU": 1, "memory": 5}, 2),
    ],
)
def test_a_worker_lies_whole_on_one_node(need: dict[str, float], fit: int) -> None:
    assert capacity.fitting(TWO_OF_FOUR.values(), need) == fit


@pytest.mark.parametrize(("workers", "cpus"), [(1, 4.0), (2, 4.0), (3, 2.0), (8, 1.0), (9, 1.0)])
def test_the_share_of_a_worker_is_one_that_nodes_can_give(workers: int, cpus: float) -> None:
    assert capacity.worker_need(ComputeSpec(workers=workers), TWO_OF_FOUR, workers, workers) == {"CPU": cpus}


def test_where_no_node_is_a_worker_gets_what_is_written_or_one_cpu() -> None:
    assert capacity.worker_need(ComputeSpec(workers=2), {}, 2, 2) == {"CPU": 1.0}
    written = ComputeSpec(workers=2, cpus=3, gpus=1, memory_gb=2)
    assert capacity.worker_need(written, {}, 2, 2) == {"CPU": 3.0, "GPU": 1.0, "memory": 2.0 * 2**30}


@pytest.mark.parametrize("kind", ["single", "gang", "constraint"])
def test_an_autoscaler_may_name_the_impossible_in_three_ways(kind: str) -> None:
    state = autoscaler_pb2.AutoscalingState()
    request = autoscaler_pb2.ResourceRequest(resources_bundle={"CPU": 4.0})
    if kind == "single":
        state.infeasible_resource_requests.append(request)
    elif kind == "gang":
        state.infeasible_gang_resource_requests.add().bundle_selectors.add().resource_requests.append(request)
    else:
        state.infeasible_cluster_resource_constraints.add().resource_requests.add(request=request, count=2)
    assert capacity.infeasible(state, {"CPU": 4.0})
    assert not capacity.infeasible(state, {"CPU": 2.0})
