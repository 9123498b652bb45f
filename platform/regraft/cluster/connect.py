"""Connect to the Ray that a command runs on: one named by address, the job's own, or one started for the command."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import state as ray_state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from regraft import errors
from regraft.cluster.own_processes import OwnProcesses
from regraft.cluster.ray_watch import first_line, watching
from regraft.cluster.raylet_output import without_raylet_lines
from regraft.errors import ClusterError, Unsupported

log = logging.getLogger(__name__)
CONNECT_S = 10.0
ANSWER_S = 60.0
"""Seconds that a node has to report which files it sees."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's connection preface and an empty SETTINGS frame (RFC 9113, 3.4)."""
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
PASSED_ON = re.compile(
    r"AWS_ENDPOINT_URL(_S3)?|AWS_(DEFAULT_)?REGION|AWS_REQUEST_CHECKSUM_\w+|HF_(ENDPOINT|HUB_OFFLINE)"
    r"|REGRAFT_(STORE|CACHE|HUB_MIRROR)"
)
"""Variables of the driver that its workers need to use the same store and hub. They are not secret: a cluster shows a
job's variables to everyone who can read its dashboard, so keys belong in the nodes' environment."""


@contextmanager
def connected(address: str | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Connect to a Ray for the block; one that is started here ends with it, an existing one stays.

    Raises ClusterError where Ray ends before the block does.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise Unsupported(
            f"{address} is a cluster's Job API, which runs commands, not this process: use `regraft train SPEC "
            f"--address {address}` (or search, predict), or give the cluster's own address, host:6379",
            where="address",
        )
    if ray.is_initialized():
        with without_raylet_lines(), watching(lambda: None):
            yield
        return
    own = OwnProcesses()
    try:
        start(address, verbose=verbose)
        with without_raylet_lines(), watching(own.end):
            yield
    finally:
        own.end()  # where the start was interrupted, or the watch has not begun


@contextmanager
def reading(module: str) -> Iterator[Callable[[], object]]:
    """Import a module in another thread; yield a function that waits for it and raises its error.

    The module must not import Ray or be imported by it: two threads in one circle of imports see incomplete modules.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="regraft-import") as pool:
        yield pool.submit(importlib.import_module, module).result


def start(address: str, *, verbose: bool) -> None:
    """Connect without output; a bare `ray.init()` would join any cluster that its temporary folder names."""
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "configure_logging": True,
        "runtime_env": {"env_vars": {**passed_on(), **QUIET}},
    }
    if address == "local":
        # Ray's processes listen on every interface, and only its token keeps others out. `ray.init` turns it on for
        # a Ray that it starts. Setting RAY_AUTH_MODE here would be too late, since Ray reads it when it is imported,
        # and would leave the driver without the token that its own cluster asks for.
        options["include_dashboard"] = False
    elif not in_site_packages() and not came_with_the_job():
        # From a source tree the package travels with the run; an installed one is on every node. Ray passes the
        # package of a job on to its workers, and refuses to be given it twice.
        options["runtime_env"]["py_modules"] = [str(package_folder())]
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        check_reachable(address)
        ray.init(**options)
    except Exception as error:
        raise ClusterError(explain(error), where=f"Ray at {address}") from error


class Unreachable(ConnectionError):
    """Nothing listens at the address: it is wrong, or its Ray is down."""


def passed_on() -> dict[str, str]:
    """Return the driver's variables that travel to the workers."""
    return {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}


def check_reachable(address: str) -> None:
    """Raise Unreachable if nothing listens at host:port, and ConnectionError if it is not Ray.

    Ray itself would try again for minutes.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        connection = socket.create_connection((host, int(port)), timeout=CONNECT_S)
    except OSError as error:
        raise Unreachable(f"{address}: {error}") from error
    with connection:
        if os.environ.get("RAY_USE_TLS") != "1" and not speaks_grpc(connection):
            raise ConnectionError(f"{address}: another program holds this port")


def speaks_grpc(connection: socket.socket) -> bool:
    """Return whether the other side answers HTTP/2's preface with its settings, as every gRPC server does."""
    try:
        connection.sendall(HTTP2_PREFACE)
        return connection.recv(9)[3:4] == b"\x04"
    except OSError:
        return False


def explain(error: Exception) -> str:
    """Return why Ray does not start or accept this process, and what to do about it."""
    text = str(error)
    if "Version mismatch" in text or "version mismatch" in text:
        return f"the cluster runs other versions: {' '.join(text.split())[:400]}; use the same Ray and Python on both"
    if "Unauthenticated" in text or "AuthToken" in text:
        return "the cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
    if "address already in use" in text.lower() or ("port" in text.lower() and "in use" in text.lower()):
        return f"a port is taken by another program: {first_line(text)}; stop it, or pass another port to `ray start`"
    if isinstance(error, Unreachable):
        return f"no Ray answers there: {first_line(text)}; start one with `ray start --head`, or leave the address out"
    if isinstance(error, ConnectionError):
        return (
            f"something listens there, but it is not a Ray that accepts this client: {first_line(text)}; if it "
            "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's"
        )
    return f"Ray did not start: {type(error).__name__}: {first_line(text)}"


def package_folder() -> Path:
    """Return the folder of this package's code."""
    return Path(errors.__file__).parent


def in_site_packages() -> bool:
    """Return whether the package is installed, not run from a source tree."""
    return "site-packages" in package_folder().parts


def came_with_the_job() -> bool:
    """Return whether the package was sent as a module of this job."""
    return "py_modules_files" in package_folder().parts


def alive_nodes() -> list[dict[str, Any]]:
    """Return all nodes that have not died, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def usable_nodes() -> list[dict[str, Any]]:
    """Return the nodes that can be given work, as Ray describes them."""
    going = draining()
    return [node for node in alive_nodes() if node["NodeID"] not in going]


def draining() -> set[str]:
    """Return the ids of the nodes that will be taken away."""
    return set(ray_state.state.get_draining_nodes())


def count_nodes_missing(paths: Sequence[str]) -> dict[str, int]:
    """Count for each path the nodes that do not see it. Nodes that are removed or do not answer are not counted."""
    asked = [sees.options(scheduling_strategy=on(node["NodeID"])).remote(list(paths)) for node in usable_nodes()]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    missing = dict.fromkeys(paths, 0)
    for answer in answered:
        try:
            seen = ray.get(answer)
        except RayError as error:
            log.info("a node did not report what it sees: %s", error)
            continue
        for path, is_seen in zip(paths, seen, strict=True):
            missing[path] += not is_seen
    return missing


def here() -> str:
    """Return the id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def on(node: str) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that schedules on this node and nowhere else."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def sees(paths: list[str]) -> list[bool]:
    """Return which of these files and folders the node of this task sees."""
    return [Path(path).exists() for path in paths]
