"""Measurements of each node of a cluster, and of a process group over all of them, for `regraft doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError

from regraft.cluster.connect import alive_nodes, on
from regraft.errors import RegraftError
from regraft.store.objects import open_store
from regraft.version import VERSION

COMPARED = ("torch", "ray", "transformers", "peft", "accelerate", "safetensors", "pyarrow")
ANSWER_S = 120.0
"""Seconds that a node has to answer."""
RING_S = 90.0
MOST_RANKS = 16
_CLOCK_READS = 5


@dataclass(frozen=True)
class Node:
    """One node, as a task on it measured it."""

    name: str
    versions: dict[str, str]
    auth: str
    """RAY_AUTH_MODE of its workers."""
    disk: int
    """Bytes free where Ray's session and downloads go."""
    shared: int
    """Bytes free at /dev/shm; -1 if it does not exist."""
    store: str
    """Why it cannot use the store; empty if it can."""
    server_s: float | None
    """Seconds that its clock is ahead of the S3 server's; None for a folder, or without an answer."""
    ahead_s: float = 0.0
    """Seconds that its clock is ahead of this process's."""


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes and the client."""
    found = {"regraft": VERSION, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def nodes(store: str, note: Callable[[str], None]) -> list[Node | str]:
    """Measure every living node; return for each the measurement, or why there is none. `note` shows progress."""
    tasks = [(node, measure.options(scheduling_strategy=on(node["NodeID"])).remote(store)) for node in alive_nodes()]
    found: list[Node | str] = []
    for number, (node, answer) in enumerate(tasks):
        note(f"node {number + 1} of {len(tasks)}: {node['NodeManagerHostname']}")
        try:
            measured = Node(name=node["NodeManagerHostname"], **ray.get(answer, timeout=ANSWER_S))
            found.append(replace(measured, ahead_s=clock_ahead(node["NodeID"])))
        except Exception as error:
            what = "did not answer" if isinstance(error, GetTimeoutError) else " ".join(str(error).split())[-300:]
            found.append(f"{node['NodeManagerHostname']}: {what}")
    return found


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def measure(store: str) -> dict[str, Any]:
    """Measure the node that runs this task; return the fields of a Node."""
    shm = "/dev/shm"
    return {
        "versions": versions(),
        "auth": os.environ.get("RAY_AUTH_MODE", ""),
        "disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "shared": shutil.disk_usage(shm).free if os.path.isdir(shm) else -1,
        "store": store_error(store),
        "server_s": clock_ahead_of_s3() if store.startswith("s3://") else None,
    }


def store_error(url: str) -> str:
    """Return why this process cannot use a store; empty if it can."""
    try:
        open_store(url).check()
    except RegraftError as error:
        return str(error)
    return ""


def clock_ahead_of_s3() -> float | None:
    """Return the seconds that this clock is ahead of the S3 server's, by the Date of any answer; None without one."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    try:
        began = time.time()
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=10) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    except (OSError, ValueError):
        return None
    return (began + time.time()) / 2 - parsedate_to_datetime(date).timestamp() if date else None


@ray.remote(num_cpus=0)
class Clock:
    """An actor that reads a node's clock."""

    def now(self) -> float:
        """Return the Unix time in seconds."""
        return time.time()


def clock_ahead(node: str) -> float:
    """Return the seconds that a node's clock is ahead of this one, by the quickest of a few answers."""
    clock = Clock.options(scheduling_strategy=on(node)).remote()  # type: ignore[attr-defined]
    reads = []
    for _ in range(_CLOCK_READS):
        began = time.time()
        theirs = float(ray.get(clock.now.remote(), timeout=ANSWER_S))
        ended = time.time()
        reads.append((ended - began, theirs - (began + ended) / 2))
    return min(reads)[1]


@ray.remote(num_cpus=0)
class Rank:
    """One member of a process group, like a worker of Ray Train."""

    def rendezvous(self) -> str:
        """Return the URL at which the others meet this rank."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def sum_ranks(self, rendezvous: str, rank: int, world: int, backend: str) -> str:
        """Sum a number over all ranks; return what went wrong, empty on success."""
        try:
            dist.init_process_group(
                backend, init_method=rendezvous, rank=rank, world_size=world, timeout=timedelta(seconds=RING_S / 2)
            )
            number = torch.full((1024,), float(rank + 1), device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(number)
            correct = bool((number == world * (world + 1) / 2).all())
            dist.destroy_process_group()
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return "" if correct else "the sum over the workers is wrong"


def ring() -> tuple[str, float, str]:
    """Have workers on all nodes sum a number, over NCCL if there are GPUs; return (what, seconds, error)."""
    existing = alive_nodes()
    gpus = [node["NodeID"] for node in existing for _ in range(int(node["Resources"].get("GPU", 0)))][:MOST_RANKS]
    backend = "nccl" if len(gpus) > 1 else "gloo"
    places = gpus if backend == "nccl" else [node["NodeID"] for node in existing][:MOST_RANKS]
    places = places if len(places) > 1 else places * 2
    what = f"{backend}, {len(places)} workers on {len(set(places))} node{'s' if len(set(places)) > 1 else ''}"
    began = time.monotonic()
    ranks = [
        Rank.options(scheduling_strategy=on(node), num_gpus=int(backend == "nccl")).remote()  # type: ignore[attr-defined]
        for node in places
    ]
    try:
        error = _sum_over(ranks, backend)
    except GetTimeoutError:
        error = f"the workers did not meet in {RING_S:.0f} s"
    except Exception as raised:
        error = " ".join(str(raised).split())[-300:]
    finally:
        for rank in ranks:
            ray.kill(rank)
    return what, time.monotonic() - began, error


def _sum_over(ranks: Sequence[Any], backend: str) -> str:
    rendezvous = ray.get(ranks[0].rendezvous.remote(), timeout=RING_S)
    answers = [rank.sum_ranks.remote(rendezvous, number, len(ranks), backend) for number, rank in enumerate(ranks)]
    return next((answer for answer in ray.get(answers, timeout=RING_S) if answer), "")
