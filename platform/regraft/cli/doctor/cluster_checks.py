"""Checks of a cluster from inside, connected to its Ray: every node, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from regraft.cli.doctor.finding import Finding
from regraft.cluster import capacity, node_checks
from regraft.cluster.connect import connected
from regraft.cluster.node_checks import Node
from regraft.errors import RequestError
from regraft.spec.sections import ComputeSpec
from regraft.units import bytes_text

_GB = 10**9
_STRICT = ("regraft", "ray", "python")
"""Packages whose versions must be equal; others are a warning."""
_MOST_SKEW_S = 2.0
_MOST_S3_SKEW_S = 300.0
"""Far below the fifteen minutes after which S3 refuses a signed request."""


def cluster_checks(
    store: str,
    address: str | None,
    compute: ComputeSpec | None,
    client: Mapping[str, str] | None,
    *,
    note: Callable[[str], None],
) -> Iterator[Finding]:
    """Run every check that needs the cluster; `note` shows what is being done. Raises ClusterError without access."""
    with connected(address):
        note("looking at every node")
        found = node_checks.nodes(store, note)
        seen = [node for node in found if isinstance(node, Node)]
        for error in (node for node in found if isinstance(node, str)):
            yield Finding("node", "fail", error, "look at its logs in Ray's dashboard, and at its memory and disk")
        yield from versions(seen, client)
        yield from tokens(seen)
        yield from space(seen)
        yield from clocks(seen)
        yield from stores(seen, store)
        yield from resources(compute)
        note("having workers on all nodes meet")
        yield from meeting()


def versions(nodes: Sequence[Node], client: Mapping[str, str] | None) -> Iterator[Finding]:
    """Compare the versions on all nodes and on the client."""
    wanted = dict(client or (nodes[0].versions if nodes else {}))
    whose = "the client" if client else nodes[0].name if nodes else ""
    other = [(node, name) for node in nodes for name, value in wanted.items() if node.versions.get(name) != value]
    for node, name in other:
        text = f"{node.name} has {name} {node.versions.get(name)}, {whose} {wanted[name]}"
        status: Literal["fail", "warn"] = "fail" if name in _STRICT else "warn"
        yield Finding("versions", status, text, "use one image, and the client's versions in it")
    if not other and nodes:
        text = ", ".join(f"{name} {nodes[0].versions[name]}" for name in ("regraft", "python", "ray", "torch"))
        yield Finding("versions", "ok", f"{text} on {len(nodes)} nodes{' and the client' if client else ''}")


def tokens(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Check that Ray's ports ask for the token: its processes listen on every interface."""
    open_ones = [node.name for node in nodes if node.auth.lower() != "token"]
    if open_ones:
        todo = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on every node before `ray start` (KubeRay: authOptions)"
        yield Finding(
            "ray token",
            "fail",
            f"not required on {', '.join(open_ones[:5])}: anyone who can connect to Ray can run code",
            todo,
        )
    elif nodes:
        yield Finding("ray token", "ok", f"required on {len(nodes)} nodes")


def space(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Measure the disk and the shared memory of every node."""
    low = [f"{node.name}: {bytes_text(node.disk)} free" for node in nodes if node.disk < 2 * _GB]
    if low:
        yield Finding("disk", "warn", "; ".join(low), "free some: bases, Ray's session and downloads go there")
    elif nodes:
        yield Finding("disk", "ok", f"{bytes_text(min(node.disk for node in nodes))} free or more on every node")
    low = [f"{node.name}: {bytes_text(node.shared)} free" for node in nodes if 0 <= node.shared < _GB]
    if low:
        todo = "give /dev/shm more (Docker: --shm-size=2g; Kubernetes: an emptyDir with medium Memory)"
        yield Finding("shared memory", "warn", "; ".join(low), todo)
    elif nodes:
        least = min(node.shared for node in nodes)
        yield Finding("shared memory", "ok", f"{bytes_text(least)} free or more on every node")


def clocks(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Compare the nodes' clocks, which leases rely on, and S3's clock, which refuses old requests."""
    if not nodes:
        return
    ahead = [node.ahead_s for node in nodes]
    apart = max(*ahead, 0.0) - min(*ahead, 0.0)
    todo = "run a time service (chrony, systemd-timesyncd) on the nodes"
    if apart > _MOST_SKEW_S:
        far = max(nodes, key=lambda node: abs(node.ahead_s))
        yield Finding("clocks", "warn", f"{apart:.1f} s apart; {far.name} by {far.ahead_s:+.1f} s", todo)
    else:
        yield Finding("clocks", "ok", f"{apart * 1000:.0f} ms apart at most")
    known = [(abs(node.server_s), node) for node in nodes if node.server_s is not None]
    if known:
        worst, node = max(known, key=lambda item: item[0])
        text = f"{worst:.0f} s from the S3 server's at most ({node.name})"
        yield (
            Finding("clocks: S3", "fail", text, todo) if worst > _MOST_S3_SKEW_S else Finding("clocks: S3", "ok", text)
        )


def stores(nodes: Sequence[Node], url: str) -> Iterator[Finding]:
    """Report which nodes cannot use the store."""
    wrong = [(node.name, node.store) for node in nodes if node.store]
    for name, error in wrong:
        todo = "the nodes need the keys and AWS_ENDPOINT_URL in their own environment; they are never sent with a job"
        if not url.startswith("s3://"):
            todo = "use s3://bucket/prefix, or a folder that every node mounts at the same place"
        yield Finding("store", "fail", f"{name}: {error}", todo)
    if nodes and not wrong:
        yield Finding("store", "ok", f"{url}: written, read back and deleted by {len(nodes)} nodes")


def resources(compute: ComputeSpec | None) -> Iterator[Finding]:
    """Compare what a spec asks for with what the cluster can provide."""
    nodes = capacity.nodes().values()
    has = ", ".join(f"{sum(holds.get(name, 0) for holds in nodes):g} {name}" for name in ("CPU", "GPU"))
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
    """Have workers on all nodes sum a number, as they do in training."""
    what, seconds, error = node_checks.ring()
    if error:
        todo = (
            "open all ports between the nodes (NetworkPolicy, security group); GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME name the interface to use"
        )
        yield Finding("workers meet", "fail", f"{what}: {error}", todo)
    else:
        yield Finding("workers meet", "ok", f"{what}, summed right ({seconds:.1f} s with starting)")
