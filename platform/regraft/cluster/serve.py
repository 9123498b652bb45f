"""An endpoint on Ray Serve: each replica is a complete endpoint in one process, from HTTP to the engine.

A Serve config file or a RayService names `regraft.cluster.serve:app` as `import_path`, with a serve spec as `args`.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
import threading
from collections import Counter as PerModel
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import torch
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig
from ray.util.metrics import Counter, Gauge, Histogram
from starlette.applications import Starlette

from regraft.cluster import bounded_ports, haproxy
from regraft.cluster.connect import connected
from regraft.cluster.quiet import quiet_start
from regraft.cluster.ray_watch import is_lost
from regraft.cluster.raylet_output import RayletFilter
from regraft.cluster.visibility import check_store
from regraft.endpoint.api_keys import ApiKeys
from regraft.endpoint.server import OpenEndpoint, refuse_open_doors, url_of
from regraft.errors import ClusterError, RequestError
from regraft.serving.engine.batcher import ComputedBatch
from regraft.spec.serve import ServeSpec
from regraft.version import VERSION

NAME = "regraft"
"""The application's name in Serve."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TRIES = 2
"""How often a replica that cannot open its models is started before the update fails."""
METRICS_S = 1.0
"""Seconds between two load reports of proxies and replicas.

With Serve's default of 10 s, the first request to an endpoint without replicas waits that long before one is started.
Serve announces that environment variables will replace this setting.
"""
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"

_log = logging.getLogger(__name__)


class RayMetrics:
    """Metrics that Ray exports with its own, on each node's metrics port."""

    def __init__(self) -> None:
        tags = ("model", "version")
        self._requests = Counter("regraft_requests", "Requests by model, version and status", (*tags, "status"))
        self._seconds = Histogram("regraft_request_seconds", "Seconds from head to answer", list(SECONDS), tags)
        self._rows = Counter("regraft_rows", "Rows answered", tags)
        self._batch = Histogram("regraft_batch_rows", "Rows of the batches that held this model", list(SIZES), tags)
        self._together = Counter("regraft_computed_rows", "Rows computed", tags)
        self._waited = Histogram("regraft_queue_seconds", "Seconds that rows waited", list(SECONDS), tags)
        self._held = Gauge("regraft_requests_held", "Requests waiting or being answered in a replica")
        self._unread = Gauge("regraft_store_unreadable", "1 while a replica cannot read the registry")
        self._unread.set(0)

    def answered(self, model: str, version: str, status: int, *, seconds: float, rows: int) -> None:
        """Count a request that has ended."""
        # An unknown name is chosen by the client: it must not become a time series.
        tags = {"model": model if version else "", "version": version}
        self._requests.inc(1, {**tags, "status": str(status)})
        if version:
            self._seconds.observe(seconds, tags)
            if status == 200 and rows:
                self._rows.inc(rows, tags)

    def held(self, count: int) -> None:
        """Set the number of requests that are waiting or being answered."""
        self._held.set(count)

    def store_readable(self, readable: bool) -> None:
        """Set whether the registry can be read."""
        self._unread.set(0 if readable else 1)

    def computed(self, batch: ComputedBatch) -> None:
        """Count the rows of a computed batch."""
        for (model, version), count in PerModel((row.served.model, row.served.version) for row in batch.rows).items():
            tags = {"model": model, "version": version}
            self._batch.observe(len(batch.rows), tags)
            self._together.inc(count, tags)
        for row, waited in zip(batch.rows, batch.waited_s, strict=True):
            self._waited.observe(waited, {"model": row.served.model, "version": row.served.version})


def refuse_without_keys(spec: ServeSpec, *, asked: bool) -> None:
    """Raise RequestError if the command has keys (`asked`) and this node has none: it would accept every request."""
    if asked and not ApiKeys.found(spec.keys).required:
        raise RequestError(
            "this node has no keys, but the command that started the endpoint has: pass --keys with a file that "
            "every node has, or set REGRAFT_KEYS on every node",
            where="keys",
        )


def freeze_objects() -> None:
    """Exclude all present objects from garbage collection: a pass over them delays answers by 0.3 s."""
    gc.collect()
    gc.freeze()


@serve.ingress()
class Replica:
    """One process of the endpoint; it is ready once its models are open."""

    def __init__(self, document: Mapping[str, Any], *, asked: bool = False) -> None:
        spec = ServeSpec.resolve(document)
        refuse_without_keys(spec, asked=asked)
        torch.set_num_threads(max(1, int(spec.replica.cpus)))
        self._opened = OpenEndpoint(spec, metrics=RayMetrics())
        freeze_objects()

    def __serve_build_asgi_app__(self) -> Starlette:
        return self._opened.application()

    def __del__(self) -> None:
        if opened := getattr(self, "_opened", None):
            opened.close()


def app(args: Mapping[str, Any]) -> serve.Application:
    """Return the application of a serve spec, given as a mapping; a Serve config file calls this.

    The config file's `http_options` decide where it listens, which cannot be seen here. So it requires keys, unless
    `open_to_all` is set. Raises RequestError without either.
    """
    spec = ServeSpec.resolve(args, where="args")
    if not spec.open_to_all and not ApiKeys.found(spec.keys).required:
        raise RequestError(
            "there are no keys: write keys (a file that every node has), set REGRAFT_KEYS on the nodes, or write "
            "open_to_all: true if a proxy in front of it authenticates requests",
            where="args",
        )
    return application(spec)


def application(spec: ServeSpec, *, replace_all: bool = False) -> serve.Application:
    """Return the deployment of a spec; `replace_all` also replaces replicas that run this spec already."""
    scaling, replica, limits = spec.scaling, spec.replica, spec.limits
    gpus = (1.0 if ray.cluster_resources().get("GPU") else 0.0) if replica.gpus == "auto" else replica.gpus
    options: dict[str, Any] = {"num_cpus": replica.cpus, "num_gpus": gpus}
    if replica.memory_gb:
        options["memory"] = int(replica.memory_gb * 1e9)
    deployment = serve.deployment(
        Replica,
        name="endpoint",
        ray_actor_options=options,
        # The endpoint itself refuses requests beyond its limits, with its own message; Serve's limits come second.
        max_ongoing_requests=limits.queue + 8,
        max_queued_requests=max(16, limits.queue // 4),
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1.0),
        graceful_shutdown_timeout_s=scaling.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        max_constructor_retry_count=TRIES,
        max_surge_percent=100,
        **_replicas(spec),
    )
    # Fields that a replica does not read are left out: a replica whose arguments change is replaced.
    document = spec.model_dump(mode="json", exclude={"scaling", "host", "port", "proxy"})
    asked = not spec.open_to_all and ApiKeys.found(spec.keys).required
    # By default Serve takes every deployment for new code, and replaces all replicas even if only their number changes.
    version = secrets.token_hex(16) if replace_all else _code_version(document, asked, spec.plugins)
    return deployment.options(version=version, _internal=True).bind(document, asked=asked)


def _code_version(document: Mapping[str, Any], asked: bool, plugins: Sequence[str]) -> str:
    """Hash what a replica's behaviour depends on: its arguments, this package, torch's version and the plugins."""
    digest = hashlib.sha256(json.dumps([VERSION, torch.__version__, document, asked], sort_keys=True).encode())
    for folder in (Path(__file__).parents[1], *map(Path, plugins)):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.parent.name != "__pycache__":
                digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _replicas(spec: ServeSpec) -> dict[str, Any]:
    scaling = spec.scaling
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.max_replicas}
    config = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        initial_replicas=max(1, scaling.min_replicas),
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target,
        upscale_delay_s=scaling.up_seconds,
        downscale_delay_s=scaling.down_seconds,
        metrics_interval_s=METRICS_S,
        look_back_period_s=max(2.0, scaling.up_seconds),
    )
    return {"autoscaling_config": config}


@contextlib.contextmanager
def serving(spec: ServeSpec, address: str | None = None) -> Iterator[str]:
    """Start the endpoint on Ray and yield its URL; the endpoint ends with the block.

    On an existing Ray an application of this name is updated in place, and deleted in the end.
    """
    refuse_open_doors(spec, everywhere=spec.proxy == "haproxy")
    if spec.port == 0:
        raise RequestError("0 is written; Ray Serve needs a port number: 8000 is its default", where="port")
    bounded_ports.ask_for_bounds()
    if spec.proxy == "haproxy":
        _enable_haproxy()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        before = signal.getsignal(signal.SIGTERM)
        with quiet_start():
            stack.enter_context(connected(address))
        if before is not None and threading.current_thread() is threading.main_thread():
            # Ray installs its own handler of SIGTERM when it starts, which would end this process without cleaning up.
            signal.signal(signal.SIGTERM, before)
        check_store(spec.store)
        stack.callback(_delete_application)
        serve.start(proxy_location=ProxyLocation.EveryNode, http_options=_http_options(spec))
        deploy(spec)
        url = url_of(spec, spec.port)
        if spec.beyond() and spec.proxy != "haproxy":
            warn_of_unbounded_heads(spec, str(urlsplit(url).hostname))
        yield url


def warn_of_unbounded_heads(spec: ServeSpec, host: str) -> None:
    """Log a warning where this cluster's proxy takes heads without end: it was started without our protocol."""
    if not bounded_ports.bounds_heads(host, spec.port):
        _log.warning(
            "this cluster's proxy bounds neither heads nor trailers of requests, so that anyone who reaches %s can "
            "fill its memory: set %s=%s on every node when Ray is started, or write proxy: haproxy",
            spec.host,
            bounded_ports.VARIABLE,
            bounded_ports.CALLBACK,
        )


def deploy(spec: ServeSpec) -> None:
    """Start the application, or update it to this spec. Raises ClusterError with the reason if it does not start."""
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING")
    # Serve tries no version twice: one that failed while the store was unreachable would never start.
    known = serve.status().applications.get(NAME)
    broken = known is not None and known.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    try:
        serve.run(application(spec, replace_all=broken), name=NAME, route_prefix="/", logging_config=logs)
    except Exception as error:
        raise ClusterError(_deploy_error(error), where="Ray Serve") from error


def _http_options(spec: ServeSpec) -> HTTPOptions:
    limits = spec.limits
    return HTTPOptions(
        host=spec.host,
        port=spec.port,
        request_timeout_s=limits.body_seconds + 2 * limits.seconds + 10,
        keep_alive_timeout_s=30,
    )


def _enable_haproxy() -> None:
    """Make a Ray that is started here use HAProxy; a running cluster has its own variables."""
    if os.environ.get(HAPROXY) != "1":
        raise RequestError(f"haproxy needs {HAPROXY}=1 in the environment of the cluster and of this command", "proxy")
    if haproxy.VARIABLE in os.environ:
        return
    if command := haproxy.installed():
        os.environ[haproxy.VARIABLE] = command
    else:
        _log.warning("%s is not installed beside Python: replicas refuse excess requests themselves", haproxy.COMMAND)


def _deploy_error(error: Exception) -> str:
    """Return what Serve reports of the deployment, without its traceback."""
    with contextlib.suppress(Exception):
        state = serve.status().applications[NAME]
        messages = [item.message for item in state.deployments.values() if item.message] + [state.message]
        for message in messages:
            lines = [line for line in message.splitlines() if line.startswith("regraft.errors.")]
            if lines:
                return str(lines[-1].partition(": ")[2])
        if state.status == ApplicationStatus.DEPLOY_FAILED and messages:
            return str(messages[0].strip().splitlines()[-1])
    return f"the endpoint did not start: {str(error).strip().splitlines()[-1]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Serve's own log off the screen, unless regraft logs at DEBUG."""
    if logging.getLogger("regraft").isEnabledFor(logging.DEBUG):
        yield
        return
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(RayletFilter(sys.stdout)):
        yield


def _delete_application() -> None:
    if is_lost():
        return
    with contextlib.suppress(Exception):
        serve.delete(NAME)
        serve.shutdown()
