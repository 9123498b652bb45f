"""Servers that Ray Serve starts get the endpoint's bounds, and an endpoint without them is found by asking it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvicorn.config

from cluster.test_haproxy import Front, configuration
from regraft.cluster import bounded_ports
from regraft.cluster.serve import warn_of_unbounded_heads
from regraft.endpoint.server import port_of
from regraft.spec.serve import ServeSpec
from support.coroutines import run_apart
from support.processes import free_port


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


@contextmanager
def running() -> Iterator[int]:
    """Run a server as Serve does, by uvicorn's own choice of a protocol; yields its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield port_of(server)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    monkeypatch.setattr(bounded_ports, "_PATIENCE_S", 0.3)


@pytest.mark.parametrize("bounded", [False, True])
def test_a_proxy_that_takes_heads_without_end_is_found_and_named(
    bounded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if bounded:
        bounded_ports.install()
    with running() as port, caplog.at_level(logging.WARNING):
        assert bounded_ports.bounds_heads("127.0.0.1", port) == bounded
        warn_of_unbounded_heads(ServeSpec(host="0.0.0.0", port=port), "127.0.0.1")
    assert ("bounds neither heads nor trailers" in caplog.text) == (not bounded)
    assert (bounded_ports.CALLBACK in caplog.text) == (not bounded)


def test_what_is_beyond_an_ordinary_body_is_read_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_ports, "UNPACED_BYTES", 1000)
    monkeypatch.setattr(bounded_ports, "BYTES_A_SECOND", 10_000)
    read: list[float] = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        began = time.monotonic()
        for _ in range(20):
            await receive()
            read.append(time.monotonic() - began)

    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": b"a" * 100, "more_body": True}

    (middleware,) = bounded_ports.install()
    run_apart(middleware.cls(reads)({"type": "http"}, endless, None))
    assert len(read) == 20 and read[19] - read[9] > 0.08


def test_haproxy_asks_a_bounded_server_over_connections_that_stay(tmp_path: Path) -> None:
    bounded_ports.install()
    with running() as port:
        front = free_port()
        written = configuration(tmp_path, front, [port])
        command = [sys.executable, "-m", "regraft.cluster.haproxy", "-db", "-f", str(written)]
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as proxy:
            try:
                deadline = time.monotonic() + 60
                while (tmp_path / "log").read_text().count("/replica-") < 2:
                    assert proxy.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.05)
                for body in (b"{}", b"x" * (1 << 20), *[b"{}"] * 20):
                    assert Front(front, []).ask(body=body)[0] == 200
            finally:
                proxy.kill()


def test_a_callback_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bounded_ports.VARIABLE, "shop.middlewares:make")
    bounded_ports.ask_for_bounds()
    assert os.environ[bounded_ports.VARIABLE] == "shop.middlewares:make"
    monkeypatch.delenv(bounded_ports.VARIABLE)
    bounded_ports.ask_for_bounds()
    assert os.environ[bounded_ports.VARIABLE] == bounded_ports.CALLBACK
