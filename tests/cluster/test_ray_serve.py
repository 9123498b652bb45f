"""Ray Serve answers as the model does, and keeps answering during updates."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve

from regraft.cluster.serve import NAME, app, application, deploy, refuse_without_keys, serving
from regraft.errors import ClusterError, RequestError
from regraft.spec.serve import ServeSpec
from unit.endpoint.model_store import ModelStore

MODEL = "text-classification"
ASKED = json.dumps({"inputs": "w5 w6 w7"}).encode()


@pytest.fixture(scope="module")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    made = ModelStore(tmp_path_factory.mktemp("shop"))
    made.add()
    return made


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def spec_of(model_store: ModelStore, port: int, **more: Any) -> ServeSpec:
    document: dict[str, Any] = {
        "store": model_store.store,
        "models": [MODEL, "*"],
        "port": port,
        "device": "cpu",
        "replica": {"cpus": 0.5, "gpus": 0},
        "refresh_seconds": 0.5,
        **more,
    }
    return ServeSpec.resolve(document)


@dataclass(frozen=True)
class Seen:
    """One request of the load."""

    at: float
    status: int
    seconds: float
    version: str
    why: str = ""


@dataclass
class Load:
    """Clients that send requests without a pause, each on a connection of its own."""

    port: int
    path: str = f"/models/{MODEL}@production"
    seen: list[Seen] = field(default_factory=list)

    def once(self, path: str = "", body: bytes = ASKED) -> tuple[int, dict[str, str], Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request("POST", path or self.path, body, {"content-type": "application/json"})
            reply = line.getresponse()
            headers = {key.lower(): value for key, value in reply.getheaders()}
            return reply.status, headers, json.loads(reply.read())
        finally:
            line.close()

    @contextmanager
    def running(self, clients: int = 2) -> Iterator[None]:
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                began = time.monotonic()
                try:
                    status, headers, body = self.once()
                    why = "" if status == 200 else str(body)
                    found = Seen(began, status, time.monotonic() - began, headers.get("x-model-version", ""), why)
                except (OSError, ValueError, http.client.HTTPException) as error:  # cut off, or no JSON
                    found = Seen(began, 0, time.monotonic() - began, "", repr(error))
                self.seen.append(found)
                time.sleep(0.01)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()

    def failed(self) -> list[Seen]:
        return [one for one in self.seen if one.status != 200]

    def p99(self, since: float, until: float) -> float:
        times = sorted(one.seconds for one in self.seen if since <= one.at < until)
        return times[int(0.99 * (len(times) - 1))] if times else 0.0


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


@pytest.mark.slow
def test_ray_serve_answers_as_the_model_does(model_store: ModelStore, on_ray: None) -> None:
    port = free_port()
    wanted = model_store.predict(MODEL, ["w5 w6 w7"])[0]["scores"]
    load = Load(port, f"/models/{MODEL}")
    with serving(spec_of(model_store, port)) as url:
        assert url == f"http://127.0.0.1:{port}"
        status, headers, body = load.once()
        assert status == 200
        assert headers["x-model-version"] == "v1" and len(headers["x-model-delta"]) == 64
        assert [item["label"] for item in body[0]] == [item["label"] for item in wanted]
        for one, other in zip(body[0], wanted, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert load.once("/models/nobody")[0] == 404
        assert load.once(body=b"{")[0] == 422
        model_store.add(name="later", seed=4)
        assert load.once("/models/later")[0] == 200
    until(lambda: refuses_connections(port))


def refuses_connections(port: int) -> bool:
    """Return whether nobody listens: a proxy that ends may still answer for a moment that nothing is there."""
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) != 0


def test_a_config_file_s_application_asks_for_keys(model_store: ModelStore) -> None:
    with pytest.raises(RequestError, match="there are no keys"):
        app({"store": model_store.store})


def test_a_node_without_keys_does_not_answer_for_an_endpoint_that_has_some(
    model_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGRAFT_KEYS", raising=False)
    with pytest.raises(RequestError, match="this node has no keys"):
        refuse_without_keys(spec_of(model_store, 8000), asked=True)


def test_haproxy_is_refused_without_keys(model_store: ModelStore) -> None:
    with (
        pytest.raises(RequestError, match="every interface"),
        serving(spec_of(model_store, free_port(), proxy="haproxy")),
    ):
        pass


@pytest.mark.slow
def test_nothing_fails_while_everything_is_changed(model_store: ModelStore, on_ray: None) -> None:
    model_store.add(seed=2)
    model_store.registry.promote(MODEL, "v1", "production")
    port = free_port()
    load = Load(port)
    marks: list[tuple[str, float]] = []

    def mark(what: str) -> None:
        marks.append((what, time.monotonic()))

    def version() -> str:
        return load.seen[-1].version if load.seen else ""

    with serving(spec_of(model_store, port)), load.running():
        until(lambda: version() == "v1")
        mark("steady")
        time.sleep(5)
        mark("promote")
        model_store.registry.promote(MODEL, "v2", "production")
        until(lambda: version() == "v2")
        mark("rollback")
        model_store.registry.rollback(MODEL, "production")
        until(lambda: version() == "v1")
        mark("add and remove")
        model_store.add(name="other", seed=3)
        assert load.once("/models/other")[0] == 200
        model_store.registry.delete("other", "v1")
        until(lambda: load.once("/models/other")[0] == 404)
        mark("a failing version")
        model_store.add(seed=5)
        newest = model_store.registry.versions(MODEL)[-1].version
        delta = Path(model_store.store) / f"models/{MODEL}/{newest}/delta.safetensors"
        delta.write_bytes(delta.read_bytes()[:-8] + b"spoiled!")
        model_store.registry.promote(MODEL, newest, "production")
        time.sleep(3)
        assert version() == "v1"
        model_store.registry.rollback(MODEL, "production")
        mark("redeploy")
        deploy(spec_of(model_store, port, limits={"queue": 100}))
        until(lambda: replicas() == 1)
        alone = pids()
        mark("scale to two")
        deploy(spec_of(model_store, port, limits={"queue": 100}, scaling={"min_replicas": 2, "max_replicas": 2}))
        until(lambda: replicas() == 2)
        both = pids()
        assert len(both) == 2 and both > alone, "no replica is replaced where only their number changes"
        mark("scale to one")
        deploy(spec_of(model_store, port, limits={"queue": 100}))
        until(lambda: replicas() == 1)
        until(lambda: len(pids()) == 1)
        assert pids() < both
        mark("a failing update")
        with pytest.raises(ClusterError):
            deploy(spec_of(model_store, port, models=[f"{MODEL}@{newest}"]))
        with pytest.raises(ClusterError):
            deploy(spec_of(model_store, port, models=[f"{MODEL}@soon"]))
        time.sleep(2)
        mark("what failed, again")
        model_store.registry.promote(MODEL, "v1", "soon")
        deploy(spec_of(model_store, port, models=[f"{MODEL}@soon"]))
        mark("end")
    ends = [at for _, at in marks[1:]]
    for (what, at), end in zip(marks, ends, strict=False):
        print(f"{what:20} {end - at:6.1f} s, p99 {load.p99(at, end) * 1000:6.0f} ms")
    assert load.failed() == []
    assert len(load.seen) > 100


def replicas() -> int:
    states = serve.status().applications[NAME].deployments["endpoint"].replica_states
    return int(states.get("RUNNING", 0)) if set(states) == {"RUNNING"} else -1


def pids() -> set[int]:
    """Of the replicas."""
    found = set()
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile
            if "ServeReplica" in " ".join(one.cmdline()):
                found.add(one.pid)
    return found


def test_replicas_are_replaced_when_they_would_do_something_else(model_store: ModelStore, tmp_path: Path) -> None:
    plugin = tmp_path / "plugins" / "tasks" / "own.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("A = 1\n")
    told = {"plugins": [str(tmp_path / "plugins")]}

    def version(**more: Any) -> str:
        return str(application(spec_of(model_store, 8000, **told, **more))._bound_deployment.version)

    first = version()
    more = {"min_replicas": 0, "max_replicas": 3}
    assert version() == version(scaling=more) == version(proxy="haproxy") == first
    assert version(limits={"queue": 7}) != first
    plugin.write_text("A = 2\n")
    assert version() != first


def test_a_replica_that_is_ready_looks_for_garbage_among_little() -> None:
    told = "gc.get_freeze_count(), len(gc.get_objects())"
    code = f"import gc; from regraft.cluster.serve import freeze_objects; freeze_objects(); print({told})"
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True).stdout
    frozen, left = map(int, said.split()[-2:])
    assert frozen > 100_000 > 10 * left


def test_a_first_request_waits_for_no_report(model_store: ModelStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        made = application(spec_of(model_store, 8000, scaling={"min_replicas": 0, "up_seconds": 0}))
    found = made._bound_deployment._deployment_config.autoscaling_config
    assert found.metrics_interval_s <= 1 and found.look_back_period_s > found.metrics_interval_s


@pytest.mark.slow
def test_a_replica_that_is_killed_takes_only_what_it_held(model_store: ModelStore, on_ray: None) -> None:
    port = free_port()
    load = Load(port, f"/models/{MODEL}@v1")
    scaling = {"min_replicas": 2, "max_replicas": 2}
    with serving(spec_of(model_store, port, scaling=scaling)), load.running():
        until(lambda: len(load.seen) > 20)
        found = sorted(pids())
        assert len(found) == 2
        os.kill(found[0], signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: replicas() == 2)
        time.sleep(2)
    failed = load.failed()
    print(f"{len(failed)} of {len(load.seen)} failed: {failed[:5]}")
    assert len(failed) <= 2, "two clients have two requests on their way"
    assert all(one.at < killed + 1 for one in failed)


@pytest.mark.slow
def test_from_no_replica_to_the_first_answer(model_store: ModelStore, on_ray: None) -> None:
    port = free_port()
    load = Load(port, f"/models/{MODEL}@v1")
    scaling = {"min_replicas": 0, "max_replicas": 1, "down_seconds": 1, "up_seconds": 0}
    with serving(spec_of(model_store, port, scaling=scaling)):
        until(lambda: serve.status().applications[NAME].deployments["endpoint"].replica_states == {}, 120)
        began = time.monotonic()
        assert load.once()[0] == 200
        print(f"first answer after {time.monotonic() - began:.1f} s")
        until(lambda: "regraft_requests" in exported())
        assert f'model="{MODEL}"' in exported() and 'version="v1"' in exported()
        assert "regraft_store_unreadable" in exported()


def exported() -> str:
    """Return the metrics that Ray exports for this node."""
    node = ray.nodes()[0]
    line = http.client.HTTPConnection(node["NodeManagerAddress"], node["MetricsExportPort"], timeout=30)
    try:
        line.request("GET", "/metrics")
        return line.getresponse().read().decode()
    finally:
        line.close()
