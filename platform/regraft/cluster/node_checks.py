"""What does each node of a cluster look like, and do its workers find one another? For `regraft doctor`."""

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
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError

from regraft.cluster.connect import on
from regraft.errors import RegraftError
from regraft.store.objects import open_store
from regraft.version import VERSION

COMPARED = ("torch", "ray", "transformers", "peft", "accelerate", "safetensors", "pyarrow")
LOOK_S = 120.0
RING_S = 90.0
MOST_RANKS = 16
_ASKS = 5


@dataclass(frozen=True)
class Node:
    """One node as a task on it found it."""

    name: str
    versions: dict[str, str]
    auth: str
    """RAY_AUTH_MODE of its workers."""
    disk: int
    """Bytes free where Ray's session and downloads go."""
    shared: int
    """Bytes free at /dev/shm; -1 where there is none."""
    store: str
    """What keeps it from using the store; empty when nothing does."""
    server_s: float | None
    """Seconds that its clock is ahead of the S3 server's; None for a folder, or where no date came."""
    ahead_s: float = 0.0
    """Seconds that its clock is ahead of the asking process's."""


def versions() -> dict[str, str]:
    """Versions of what must be equal on all nodes and the client."""
    found = {"regraft": VERSION, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def nodes(store: str, told: Callable[[str], None]) -> list[Node | str]:
    """Every alive node, or why it could not be looked at."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    looks = [(node, look.options(scheduling_strategy=on(node["NodeID"])).remote(store)) for node in alive]
    found: list[Node | str] = []
    for number, (node, answer) in enumerate(looks):
        told(f"node {number + 1} of {len(looks)}: {node['NodeManagerHostname']}")
        try:
            seen = Node(name=node["NodeManagerHostname"], **ray.get(answer, timeout=LOOK_S))
            found.append(Node(**{**seen.__dict__, "ahead_s": ahead(node["NodeID"])}))
        except Exception as error:
            what = "did not answer" if isinstance(error, GetTimeoutError) else " ".join(str(error).split())[-300:]
            found.append(f"{node['NodeManagerHostname']}: {what}")
    return found


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def look(store: str) -> dict[str, Any]:
    """What the node that runs this finds."""
    shm = "/dev/shm"
    return {
        "versions": versions(),
        "auth": os.environ.get("RAY_AUTH_MODE", ""),
        "disk": shutil.disk_usage(tempfile.gettempdir()).free,
        "shared": shutil.disk_usage(shm).free if os.path.isdir(shm) else -1,
        "store": trouble(store),
        "server_s": ahead_of_server() if store.startswith("s3://") else None,
    }


def trouble(url: str) -> str:
    """What keeps this process from using a store; empty when nothing does."""
    try:
        open_store(url).check()
    except RegraftError as error:
        return str(error)
    return ""


def ahead_of_server() -> float | None:
    """Seconds that this clock is ahead of the S3 server's, by the Date of any answer; None when none came."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    try:
        began = time.time()
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=10) as answer:
            told = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        told = error.headers.get("Date")
    except (OSError, ValueError):
        return None
    return (began + time.time()) / 2 - parsedate_to_datetime(told).timestamp() if told else None


@ray.remote(num_cpus=0)
class Clock:
    """Tells a node's time."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()


def ahead(node: str) -> float:
    """Seconds that a node's clock is ahead of this one, by the quickest of a few answers."""
    clock = Clock.options(scheduling_strategy=on(node)).remote()  # type: ignore[attr-defined]
    tries = []
    for _ in range(_ASKS):
        began = time.time()
        theirs = float(ray.get(clock.now.remote(), timeout=LOOK_S))
        ended = time.time()
        tries.append((ended - began, theirs - (began + ended) / 2))
    return min(tries)[1]


@ray.remote(num_cpus=0)
class Rank:
    """One member of a process group, as a Train worker is one."""

    def place(self) -> str:
        """Where the others find it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def meet(self, meeting: str, rank: int, world: int, backend: str) -> str:
        """Sum over all ranks; what went wrong, empty when nothing did."""
        try:
            dist.init_process_group(
                backend, init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=RING_S / 2)
            )
            number = torch.full((1024,), float(rank + 1), device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(number)
            right = bool((number == world * (world + 1) / 2).all())
            dist.destroy_process_group()
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return "" if right else "the sum over the workers is wrong"


def ring() -> tuple[str, float, str]:
    """(what, seconds, what went wrong) of workers on all nodes that sum a number, over NCCL where there are GPUs."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    gpus = [node["NodeID"] for node in alive for _ in range(int(node["Resources"].get("GPU", 0)))][:MOST_RANKS]
    backend = "nccl" if len(gpus) > 1 else "gloo"
    places = gpus if backend == "nccl" else [node["NodeID"] for node in alive][:MOST_RANKS]
    places = places if len(places) > 1 else places * 2
    what = f"{backend}, {len(places)} workers on {len(set(places))} node{'s' if len(set(places)) > 1 else ''}"
    began = time.monotonic()
    ranks = [
        Rank.options(scheduling_strategy=on(node), num_gpus=int(backend == "nccl")).remote()  # type: ignore[attr-defined]
        for node in places
    ]
    try:
        wrong = _met(ranks, backend)
    except GetTimeoutError:
        wrong = f"the workers did not meet in {RING_S:.0f} s"
    except Exception as error:
        wrong = " ".join(str(error).split())[-300:]
    finally:
        for rank in ranks:
            ray.kill(rank)
    return what, time.monotonic() - began, wrong


def _met(ranks: Sequence[Any], backend: str) -> str:
    meeting = ray.get(ranks[0].place.remote(), timeout=RING_S)
    answers = [rank.meet.remote(meeting, number, len(ranks), backend) for number, rank in enumerate(ranks)]
    return next((answer for answer in ray.get(answers, timeout=RING_S) if answer), "")
