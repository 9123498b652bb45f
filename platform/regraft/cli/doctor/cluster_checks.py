"""What `regraft doctor` looks at from inside a cluster, connected to its Ray: every node, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from regraft.cli.doctor.finding import Finding
from regraft.cli.screen import size
from regraft.cluster import capacity, node_checks
from regraft.cluster.connect import connected
from regraft.cluster.node_checks import Node
from regraft.errors import RequestError
from regraft.spec.sections import ComputeSpec

_GB = 10**9
_APART_S = 2.0
_S3_APART_S = 300.0
"""S3 refuses a request that was signed fifteen minutes ago or later."""


def inside(
    store: str,
    address: str | None,
    compute: ComputeSpec | None,
    client: Mapping[str, str] | None,
    told: Callable[[str], None],
) -> Iterator[Finding]:
    """Every check that needs the cluster; ClusterError when it lets us not in."""
    with connected(address):
        told("looking at every node")
        found = node_checks.nodes(store, told)
        seen = [node for node in found if isinstance(node, Node)]
        for trouble in (node for node in found if isinstance(node, str)):
            yield Finding("node", "fail", trouble, "look at its logs in Ray's dashboard, and at its memory and disk")
        yield from versions(seen, client)
        yield from tokens(seen)
        yield from space(seen)
        yield from clocks(seen)
        yield from stores(seen, store)
        yield from resources(compute)
        told("having workers on all nodes meet")
        yield from meeting()


def versions(nodes: Sequence[Node], client: Mapping[str, str] | None) -> Iterator[Finding]:
    """The same of everything on all nodes, and on the client."""
    wanted = dict(client or (nodes[0].versions if nodes else {}))
    whose = "the client" if client else nodes[0].name if nodes else ""
    wrong = [
        f"{node.name} has {name} {node.versions.get(name)}, {whose} {value}"
        for node in nodes
        for name, value in wanted.items()
        if node.versions.get(name) != value
    ]
    for line in wrong:
        strict = any(f" has {name} " in line for name in ("regraft", "ray", "python"))
        yield Finding("versions", "fail" if strict else "warn", line, "use one image, and the client's versions in it")
    if not wrong and nodes:
        told = ", ".join(f"{name} {nodes[0].versions[name]}" for name in ("regraft", "python", "ray", "torch"))
        yield Finding("versions", "ok", f"{told} on {len(nodes)} nodes{' and the client' if client else ''}")


def tokens(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether Ray's ports ask for the token: its processes listen on every interface."""
    open_ones = [node.name for node in nodes if node.auth.lower() != "token"]
    if open_ones:
        todo = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on every node before `ray start` (KubeRay: authOptions)"
        yield Finding(
            "ray token", "fail", f"not asked for on {', '.join(open_ones[:5])}: who reaches Ray runs code", todo
        )
    elif nodes:
        yield Finding("ray token", "ok", f"asked for on {len(nodes)} nodes")


def space(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Disk and shared memory of every node."""
    low = [f"{node.name}: {size(node.disk)} free" for node in nodes if node.disk < 2 * _GB]
    if low:
        yield Finding("disk", "warn", "; ".join(low), "free some: bases, Ray's session and downloads go there")
    elif nodes:
        yield Finding("disk", "ok", f"{size(min(node.disk for node in nodes))} free or more on every node")
    low = [f"{node.name}: {size(node.shared)} free" for node in nodes if 0 <= node.shared < _GB]
    if low:
        todo = "give /dev/shm more (Docker: --shm-size=2g; Kubernetes: an emptyDir with medium Memory)"
        yield Finding("shared memory", "warn", "; ".join(low), todo)
    elif nodes:
        yield Finding("shared memory", "ok", f"{size(min(node.shared for node in nodes))} free or more on every node")


def clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Clocks against one another, by which leases are judged, and against S3's, which refuses old requests."""
    if not nodes:
        return
    ahead = [node.ahead_s for node in nodes]
    apart = max(*ahead, 0.0) - min(*ahead, 0.0)
    todo = "run a time service (chrony, systemd-timesyncd) on the nodes"
    if apart > _APART_S:
        far = max(nodes, key=lambda node: abs(node.ahead_s))
        yield Finding("clocks", "warn", f"{apart:.1f} s apart; {far.name} by {far.ahead_s:+.1f} s", todo)
    else:
        yield Finding("clocks", "ok", f"{apart * 1000:.0f} ms apart at most")
    known = [(abs(node.server_s), node) for node in nodes if node.server_s is not None]
    if known:
        worst, node = max(known, key=lambda item: item[0])
        told = f"{worst:.0f} s from the S3 server's at most ({node.name})"
        yield Finding("clocks: S3", "fail", told, todo) if worst > _S3_APART_S else Finding("clocks: S3", "ok", told)


def stores(nodes: Sequence[Node], url: str) -> Iterator[Finding]:
    """The store as every node sees it."""
    wrong = [(node.name, node.store) for node in nodes if node.store]
    for name, trouble in wrong:
        todo = "the nodes need the keys and AWS_ENDPOINT_URL in their own environment; they are never sent with a job"
        if not url.startswith("s3://"):
            todo = "use s3://bucket/prefix, or a folder that every node mounts at the same place"
        yield Finding("store", "fail", f"{name}: {trouble}", todo)
    if nodes and not wrong:
        yield Finding("store", "ok", f"{url}: written, read back and deleted by {len(nodes)} nodes")


def resources(compute: ComputeSpec | None) -> Iterator[Finding]:
    """What a spec asks for against what there can be."""
    there = capacity.nodes().values()
    has = ", ".join(f"{sum(holds.get(name, 0) for holds in there):g} {name}" for name in ("CPU", "GPU"))
    has += ", and an autoscaler that may bring more" if capacity.autoscales() else ""
    if compute is None or compute.workers == 0:
        yield Finding("resources", "ok", has)
        return
    try:
        scaling = capacity.scaling_config(compute)
    except RequestError as error:
        yield Finding("resources", "fail", error.message, "change the spec's compute, or the cluster")
        return
    each = ", ".join(f"{amount:g} {name}" for name, amount in (scaling.resources_per_worker or {}).items())
    yield Finding("resources", "ok", f"workers {scaling.num_workers}, each with {each}; the cluster has {has}")


def meeting() -> Iterator[Finding]:
    """Workers on all nodes that sum a number, as they do in training."""
    what, seconds, trouble = node_checks.ring()
    if trouble:
        todo = (
            "open all ports between the nodes (NetworkPolicy, security group); GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME name the interface to use"
        )
        yield Finding("workers meet", "fail", f"{what}: {trouble}", todo)
    else:
        yield Finding("workers meet", "ok", f"{what}, summed right ({seconds:.1f} s with starting)")
