"""A process that runs a Ray cluster of several nodes on this machine, and executes commands line by line.

A process of its own, since one process knows one token only. It answers every line of JSON with one.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray._private.utils
from ray._private.state import GlobalState
from ray._raylet import GcsClient, GcsClientOptions
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


class NodeProcesses:
    """The nodes and the commands for them."""

    def __init__(self, port: int, folder: str) -> None:
        # Ray would announce this cluster to all other processes of the machine as the one to join.
        ray._private.utils.write_ray_address = lambda *_, **__: None
        self.cluster = Cluster(shutdown_at_exit=True)
        self.cluster.add_node(
            num_cpus=0, gcs_server_port=port, temp_dir=folder, include_dashboard=False, dashboard_agent_listen_port=None
        )
        self.nodes: dict[str, Any] = {}

    def add(self, cpus: int, count: int) -> list[str]:
        """Start nodes, which join a little later."""
        begun = {
            node.node_id: node for node in (self.cluster.add_node(wait=False, num_cpus=cpus) for _ in range(count))
        }
        self.nodes |= begun
        return list(begun)

    def kill(self, node: str) -> None:
        """Kill all processes of a node."""
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)

    def drain(self, node: str, seconds: int) -> bool:
        """Drain a node."""
        client = GcsClient(address=self.cluster.address)
        until = int((time.time() + seconds) * 1000)
        accepted, _ = client.drain_node(node, PREEMPTION, "the machine is wanted back", until)
        return bool(accepted)

    def living(self) -> dict[str, dict[str, float]]:
        """Return the resources of each living node."""
        return {node["NodeID"]: node["Resources"] for node in self.cluster.global_state.node_table() if node["Alive"]}

    def actors(self) -> dict[str, str]:
        """Return class and node of each living actor."""
        table = self.cluster.global_state.actor_table(None)
        return {
            name: f"{one['ActorClassName']} {one['Address']['NodeID']}"
            for name, one in table.items()
            if one["State"] != "DEAD"
        }

    def groups(self) -> list[str]:
        """Return the states of the placement groups that are not removed."""
        table = self.cluster.global_state.placement_group_table()
        return [group["state"] for group in table.values() if group["state"] != "REMOVED"]


def main(port: str, folder: str) -> None:
    """Execute commands until standard input ends."""
    nodes = NodeProcesses(int(port), folder)
    print(json.dumps(nodes.cluster.address), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": getattr(nodes, order.pop("do"))(**order)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)
    nodes.cluster.shutdown()


def count(address: str) -> None:
    """Print the number of nodes of another cluster."""
    state = GlobalState()
    options = GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    state._initialize_global_state(options)
    print(sum(node["Alive"] for node in state.node_table()))


if __name__ == "__main__":
    count(sys.argv[2]) if sys.argv[1] == "count" else main(*sys.argv[1:])
