"""What holds the workers: the nodes that there are, and those that an autoscaler can bring."""

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

from regraft.cluster.connect import living
from regraft.contracts import Note, Progress
from regraft.errors import RequestError
from regraft.spec.sections import ComputeSpec

log = logging.getLogger(__name__)
VERDICT_S = 60.0
"""How long an autoscaler is asked whether it can ever bring what a job needs, before the job is begun and waits."""

STATUS_S = 10
"""Seconds that the control service has to answer."""

Need = dict[str, float]
"""What one worker holds, by resource."""


def nodes() -> dict[str, Mapping[str, float]]:
    """What each living node has that is not about to be taken away."""
    return {node["NodeID"]: node["Resources"] for node in living()}


def free() -> dict[str, Mapping[str, float]]:
    """What of each such node nobody uses now."""
    unused = ray_state.available_resources_per_node()
    return {node: unused.get(node, {}) for node in nodes()}


def room(holdings: Iterable[Mapping[str, float]], need: Need) -> int:
    """How many workers fit; each lies whole on one node."""
    asked = {name: amount for name, amount in need.items() if amount > 0}
    return sum(min(int(holds.get(name, 0) // amount) for name, amount in asked.items()) for holds in holdings)


def until_free(scaling: ScalingConfig, within_s: float = 15.0) -> None:
    """Wait until workers that have left have given back what they held: Ray counts what is free when others begin, and
    an elastic group would begin with fewer than there is room for."""
    need = dict(scaling.resources_per_worker or {})
    most = max(scaling.num_workers) if isinstance(scaling.num_workers, tuple) else scaling.num_workers
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if room(free().values(), need) >= min(most, room(nodes().values(), need)):
            return
        time.sleep(0.25)


def bounds(compute: ComputeSpec) -> tuple[int, int]:
    """The fewest and the most workers."""
    return compute.workers if isinstance(compute.workers, tuple) else (compute.workers, compute.workers)


def scaling_config(compute: ComputeSpec, progress: Progress | None = None) -> ScalingConfig:
    """Workers and what each holds; RequestError for what the cluster has not, and no autoscaler can bring."""
    low, high = bounds(compute)
    there = nodes()
    need = need_of(compute, there, low, high)
    # Ray marks each node of an accelerator type with one such resource, of which a worker takes next to nothing.
    whole = need | ({f"accelerator_type:{compute.accelerator}": 0.001} if compute.accelerator else {})
    if room(there.values(), whole) < low and not can_come(whole, low, progress):
        brings = ", and its autoscaler can never bring so much" if autoscales() else ""
        raise RequestError(never(whole, low, there) + brings, where="compute")
    return ScalingConfig(
        num_workers=compute.workers if low == high else (low, high),
        use_gpu=bool(need.get("GPU")),
        resources_per_worker=need,
        accelerator_type=compute.accelerator,
        # More workers when nodes come is decided between two steps, not by Ray in the midst of one.
        elastic_resize_monitor_interval_s=float(2**31),
    )


def need_of(compute: ComputeSpec, there: Mapping[str, Mapping[str, float]], low: int, high: int) -> Need:
    """What a worker holds: what is written, else a GPU where there are enough, and an even share of the CPUs."""
    all_gpus = sum(holds.get("GPU", 0) for holds in there.values())
    gpus = compute.gpus if compute.gpus != "auto" else (1.0 if all_gpus >= low else 0.0)
    need: Need = {"GPU": gpus} if gpus else {}
    if compute.memory_gb:
        need["memory"] = compute.memory_gb * 2**30
    if compute.cpus:
        return {"CPU": float(compute.cpus), **need}
    share = int(sum(holds.get("CPU", 0) for holds in there.values()) // high)
    # An even share of all nodes may be more than any one of them has.
    fitting = (cpus for cpus in range(share, 1, -1) if room(there.values(), {"CPU": cpus, **need}) >= high)
    return {"CPU": float(next(fitting, 1)), **need}


def never(need: Need, low: int, there: Mapping[str, Mapping[str, float]]) -> str:
    """Why so many workers find no room."""
    for name, amount in need.items():
        has = sum(holds.get(name, 0) for holds in there.values())
        if amount * low > has:
            return f"{low} workers with {amount:g} {name} each are asked for; the cluster has {has:g}"
    fit = room(there.values(), need)
    return f"{told(need, low)} are asked for; the cluster has as much, but its nodes hold only {fit} of them"


def can_come(need: Need, low: int, progress: Progress | None = None) -> bool:
    """Whether an autoscaler can bring nodes for `low` workers: it is asked for them, and what it says is waited for.

    Ray tells no driver what a cluster may become; what an autoscaler can never bring it names as infeasible.
    """
    if not autoscales():
        return False
    if progress is not None:
        progress(Note(f"asking the autoscaler for room for {told(need, low)}"))
    group = placement_group([need] * low, strategy="PACK")
    try:
        return verdict(group, need)
    finally:
        remove_placement_group(group)


def verdict(group: PlacementGroup, need: Need) -> bool:
    """False once the autoscaler names the bundle as infeasible, True once nodes come, or when it says nothing."""
    before = set(nodes())
    end = time.monotonic() + VERDICT_S
    while time.monotonic() < end:
        if group.wait(1) or set(nodes()) - before:
            return True
        said = status().autoscaling_state
        if infeasible(said, need):
            return False
        if said.pending_instances or said.pending_instance_requests:
            return True
    return True


def infeasible(said: Any, need: Need) -> bool:
    """Whether the autoscaler has said of a bundle like this one that it can never be held."""
    requests = list(said.infeasible_resource_requests)
    for gang in said.infeasible_gang_resource_requests:
        requests += gang.requests
        requests += [request for bundles in gang.bundle_selectors for request in bundles.resource_requests]
    for constraint in said.infeasible_cluster_resource_constraints:
        requests += [counted.request for counted in constraint.resource_requests]
    return any(dict(request.resources_bundle) == need for request in requests)


def autoscales() -> bool:
    """Whether an autoscaler (Ray's second one) looks after this cluster.

    One may report from a cluster that it cannot change, whose nodes then are no instances of anything.
    """
    reply = status()
    instances = any(node.instance_id or node.ray_node_type_name for node in reply.cluster_resource_state.node_states)
    return bool(reply.autoscaling_state.autoscaler_state_version) and instances


def status() -> Any:
    """Nodes and autoscaler, as the control service knows them."""
    reply = autoscaler_pb2.GetClusterStatusReply()
    reply.ParseFromString(ray_worker.global_worker.gcs_client.get_cluster_status(timeout_s=STATUS_S))
    return reply


def told(need: Need, count: int) -> str:
    """Workers and what each holds, in words."""
    return f"{count} workers with {' and '.join(f'{amount:g} {name}' for name, amount in need.items())} each"
