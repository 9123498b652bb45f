"""What could this cluster ever hold? Its nodes, and those that its autoscaler may add."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.state import state

from regraft.errors import AskedWrong

UNLIMITED = 10**9


@dataclass(frozen=True)
class Group:
    """Nodes alike: what each holds, and how many there can be."""

    resources: Mapping[str, float]
    most: int = 1

    def holds(self, need: Mapping[str, float]) -> int:
        """How many workers of that need the group holds at most."""
        each = min((self.resources.get(name, 0) / amount for name, amount in need.items() if amount > 0), default=0.0)
        return self.most * math.floor(each + 1e-9)


def groups() -> list[Group]:
    """The alive nodes, or what the autoscaler may make of them where that is more than a node of each kind."""
    alive = [Group(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [*alive, *scaled(alive)]


def scaled(alive: Iterable[Group]) -> list[Group]:
    """The nodes that an autoscaler may still add; none without one.

    How many of each kind are alive already is told by their resources: nodes of a kind have the same CPUs and GPUs.
    """
    config = state.get_cluster_config()
    found = []
    for group in config.node_group_configs if config is not None else ():
        resources = {name: float(amount) for name, amount in group.resources.items()}
        there = sum(_alike(node.resources, resources) for node in alive)
        most = UNLIMITED if group.max_count < 0 else max(0, group.max_count - there)
        if most:
            found.append(Group(resources, most))
    return found


def holds(among: Iterable[Group], need: Mapping[str, float]) -> int:
    """How many workers of that need all of it together holds."""
    return sum(group.holds(need) for group in among)


def most(among: Iterable[Group], name: str) -> float:
    """How much of a resource there can be in all."""
    return sum(group.most * group.resources.get(name, 0) for group in among)


def largest(among: Iterable[Group], name: str) -> float:
    """The most of a resource that one node has."""
    return max((group.resources.get(name, 0) for group in among), default=0)


def check_capacity(there: Sequence[Group], workers: int, need: Mapping[str, float]) -> None:
    """AskedWrong when the cluster, its autoscaler's nodes too, can never hold the workers; Ray would wait for ever."""
    for name, amount in need.items():
        if amount * workers > most(there, name):
            raise AskedWrong(
                f"{workers} workers with {amount:g} {name} each are asked for; the cluster has "
                f"{most(there, name):g} at most: ask for less, or let it grow",
                where="compute",
            )
    if (fit := holds(there, need)) < workers:
        each = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
        raise AskedWrong(
            f"{workers} workers with {each} each are asked for; the cluster's nodes hold {fit} of them at most, for a "
            "worker must fit into one node: ask for less each, or for larger nodes",
            where="compute",
        )


def _alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(one.get(name, 0) == other.get(name, 0) for name in ("CPU", "GPU"))
