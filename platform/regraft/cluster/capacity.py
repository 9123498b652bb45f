"""The resources that hold workers: of the nodes that exist, and of those that an autoscaler can add."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray.core.generated import autoscaler_pb2
from ray.train import ScalingConfig
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from regraft.cluster.connect import usable_nodes
from regraft.contracts import Note, Progress
from regraft.errors import RequestError
from regraft.spec.sections import ComputeSpec

log = logging.getLogger(__name__)
INFEASIBLE_S = 60.0
"""Seconds in which an autoscaler must report that it can never provide what a job needs.

Without such a report the job begins and waits.
"""

STATUS_S = 10
"""Seconds that Ray's control service has to answer."""

Need = dict[str, float]
"""Resources of one worker, by name."""


def nodes() -> dict[str, Mapping[str, float]]:
    """Return the resources of each living node that is not about to be taken away, by its id."""
    return {node["NodeID"]: node["Resources"] for node in usable_nodes()}


def free() -> dict[str, Mapping[str, float]]:
    """Return the unused resources of each such node."""
    unused = ray_state.available_resources_per_node()
    return {node: unused.get(node, {}) for node in nodes()}


def fitting(holdings: Iterable[Mapping[str, float]], need: Need) -> int:
    """Return how many workers fit on nodes with these resources; a worker is never split over nodes."""
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    return sum(min(int(holds.get(name, 0) // amount) for name, amount in wanted.items()) for holds in holdings)


def wait_until_free(scaling: ScalingConfig, within_s: float = 15.0) -> None:
    """Wait until workers that have stopped have given back their resources.

    Ray counts free resources when a group begins, so an elastic group would begin with fewer workers than could fit.
    """
    need = dict(scaling.resources_per_worker or {})
    most = max(scaling.num_workers) if isinstance(scaling.num_workers, tuple) else scaling.num_workers
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if fitting(free().values(), need) >= min(most, fitting(nodes().values(), need)):
            return
        time.sleep(0.25)


def bounds(compute: ComputeSpec) -> tuple[int, int]:
    """Return the least and the largest number of workers."""
    return compute.workers if isinstance(compute.workers, tuple) else (compute.workers, compute.workers)


def scaling_config(compute: ComputeSpec, progress: Progress | None = None) -> ScalingConfig:
    """Return the number of workers and what each holds.

    Raises RequestError if the cluster does not have that much and no autoscaler can add it.
    """
    low, high = bounds(compute)
    existing = nodes()
    need = worker_need(compute, existing, low, high)
    full = with_accelerator(need, compute)
    if fitting(existing.values(), full) < low and not can_be_added(full, low, progress):
        never = ", and its autoscaler can never bring so much" if autoscales() else ""
        raise RequestError(shortage(full, low, existing) + never, where="compute")
    return ScalingConfig(
        num_workers=compute.workers if low == high else (low, high),
        use_gpu=bool(need.get("GPU")),
        resources_per_worker=need,
        accelerator_type=compute.accelerator,
        # Growing when nodes come is decided between two steps, not by Ray in the middle of one.
        elastic_resize_monitor_interval_s=float(2**31),
    )


def with_accelerator(need: Need, compute: ComputeSpec) -> Need:
    """Add the accelerator type: Ray marks each of its nodes with one such resource, of which a worker takes a trace."""
    return need | ({f"accelerator_type:{compute.accelerator}": 0.001} if compute.accelerator else {})


def worker_need(compute: ComputeSpec, existing: Mapping[str, Mapping[str, float]], low: int, high: int) -> Need:
    """Return what a worker holds: what the spec writes, else a GPU if there are enough, and an even share of CPUs."""
    all_gpus = sum(holds.get("GPU", 0) for holds in existing.values())
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if all_gpus >= low else 0.0)
    need: Need = {"GPU": gpus} if gpus else {}
    if compute.memory_gb:
        need["memory"] = compute.memory_gb * 2**30
    if compute.cpus:
        return {"CPU": float(compute.cpus), **need}
    share = int(sum(holds.get("CPU", 0) for holds in existing.values()) // high)
    # An even share of all nodes may be more than any one of them has.
    fit = (cpus for cpus in range(share, 1, -1) if fitting(existing.values(), {"CPU": cpus, **need}) >= high)
    return {"CPU": float(next(fit, 1)), **need}


def shortage(need: Need, low: int, existing: Mapping[str, Mapping[str, float]]) -> str:
    """Return why so many workers do not fit, as a message."""
    for name, amount in need.items():
        has = sum(holds.get(name, 0) for holds in existing.values())
        if amount * low > has:
            return f"{low} workers with {amount:g} {name} each are asked for; the cluster has {has:g}"
    fit = fitting(existing.values(), need)
    return f"{describe(need, low)} are asked for; the cluster has as much, but its nodes hold only {fit} of them"


def can_be_added(need: Need, low: int, progress: Progress | None = None) -> bool:
    """Return whether an autoscaler can add nodes for `low` workers, by asking it for them and waiting for its answer.

    Ray does not expose how large a cluster may become. An autoscaler reports what it can never add as infeasible.
    """
    if not autoscales():
        return False
    if progress is not None:
        progress(Note(f"asking the autoscaler for {describe(need, low)}"))
    group = placement_group([need] * low, strategy="PACK")
    try:
        return becomes_feasible(group, need)
    finally:
        remove_placement_group(group)


def becomes_feasible(group: PlacementGroup, need: Need) -> bool:
    """Return False once the autoscaler reports the bundle as infeasible, True once nodes come or after a minute."""
    before = set(nodes())
    end = time.monotonic() + INFEASIBLE_S
    while time.monotonic() < end:
        if group.wait(1) or set(nodes()) - before:
            return True
        state = status().autoscaling_state
        if infeasible(state, need):
            return False
        if state.pending_instances or state.pending_instance_requests:
            return True
    return True


def infeasible(state: Any, need: Need) -> bool:
    """Return whether the autoscaler's state names a bundle like this one among those that can never be placed."""
    requests = list(state.infeasible_resource_requests)
    for gang in state.infeasible_gang_resource_requests:
        requests += gang.requests
        requests += [request for bundles in gang.bundle_selectors for request in bundles.resource_requests]
    for constraint in state.infeasible_cluster_resource_constraints:
        requests += [counted.request for counted in constraint.resource_requests]
    return any(dict(request.resources_bundle) == need for request in requests)


def autoscales() -> bool:
    """Return whether an autoscaler (Ray's second version) manages this cluster.

    One may report from a cluster that it cannot change, whose nodes then are not instances of any type.
    """
    reply = status()
    instances = any(node.instance_id or node.ray_node_type_name for node in reply.cluster_resource_state.node_states)
    return bool(reply.autoscaling_state.autoscaler_state_version) and instances


def status() -> Any:
    """Return the state of nodes and autoscaler from Ray's control service."""
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.ParseFromString(ray_worker.global_worker.gcs_client.get_cluster_status(timeout_s=STATUS_S))
    return reply


def describe(need: Need, count: int) -> str:
    """Return `2 workers with 4 CPU and 1 GPU each`."""
    return f"{count} workers with {' and '.join(f'{amount:g} {name}' for name, amount in need.items())} each"
