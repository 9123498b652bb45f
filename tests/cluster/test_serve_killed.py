"""Killed processes of an endpoint restart and answer as before, on a folder and on a real S3 server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.test_ray_serve import MODEL, Load, free_port, replicas, spec_of, until
from regraft.cluster.serve import deploy, serving
from unit.endpoint.model_store import ModelStore
from unit.store.conftest import REAL, root_on

pytestmark = pytest.mark.slow


@dataclass
class ModelStoreOnS3(ModelStore):
    """A shop whose models are below a URL."""

    url: str = ""

    @property
    def store(self) -> str:
        return self.url


@pytest.fixture(params=["folder", *(["real"] if REAL else [])])
def model_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModelStore]:
    """One model in two versions, of which the first is in production."""
    with ExitStack() as stack:
        real = request.param == "real"
        url = stack.enter_context(root_on("real", request, "shop")) if real else str(tmp_path / "store")
        made = ModelStoreOnS3(tmp_path, url=url)
        made.add()
        made.add(seed=2)
        made.registry.promote(MODEL, "v1", "production")
        yield made


def title_of(process: psutil.Process) -> str:
    """The command line of a process, empty for one that has ended: Ray collects the killed ones a little later."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill(title: str) -> None:
    """Send SIGKILL to the processes with this title below this process's Ray."""
    found = [one.pid for one in psutil.Process().children(recursive=True) if title in title_of(one)]
    assert found, f"nothing runs as {title}"
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def test_replica_controller_and_proxy_are_killed_and_the_endpoint_goes_on(
    model_store: ModelStore, on_ray: None
) -> None:
    port = free_port()
    load = Load(port)

    def version() -> str:
        return load.seen[-1].version if load.seen else ""

    with serving(spec_of(model_store, port)), load.running():
        until(lambda: version() == "v1")
        before = len(load.seen)
        kill("ServeController")
        model_store.registry.promote(MODEL, "v2", "production")
        until(lambda: version() == "v2")
        until(lambda: len(load.seen) > before + 100)
        assert load.failed() == [], "nobody needs the controller to answer, nor to learn of a promoted version"
        deploy(spec_of(model_store, port, limits={"queue": 100}))
        assert load.failed() == [], "the controller that came back deploys without a failed request"
        for title in ("ServeReplica", "ProxyActor"):
            kill(title)
            killed = time.monotonic()
            until(lambda at=killed: replicas() == 1 and any(one.at > at and one.status == 200 for one in load.seen))  # type: ignore[misc]
            time.sleep(2)
            assert version() == "v2", "it answers by the alias as it is now"
        model_store.registry.rollback(MODEL, "production")
        until(lambda: version() == "v1")
        ended = time.monotonic()
        time.sleep(2)
    assert not [one for one in load.failed() if one.at > ended]
    assert {one.version for one in load.seen if one.status == 200} == {"v1", "v2"}
