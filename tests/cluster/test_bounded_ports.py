"""Servers that Ray Serve starts get the endpoint's bounds, and an endpoint without them is found by asking it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
import uvicorn.config

from regraft.cluster import bounded_ports
from regraft.cluster.serve import warn_of_unbounded_heads
from regraft.endpoint.server import port_of
from regraft.spec.serve import ServeSpec


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
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
        assert bounded_ports.install() == []
    with running() as port, caplog.at_level(logging.WARNING):
        assert bounded_ports.bounds_heads("127.0.0.1", port) == bounded
        warn_of_unbounded_heads(ServeSpec(host="0.0.0.0", port=port), "127.0.0.1")
    assert ("bounds neither heads nor trailers" in caplog.text) == (not bounded)
    assert (bounded_ports.CALLBACK in caplog.text) == (not bounded)


def test_a_callback_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bounded_ports.VARIABLE, "shop.middlewares:make")
    bounded_ports.ask_for_bounds()
    assert os.environ[bounded_ports.VARIABLE] == "shop.middlewares:make"
    monkeypatch.delenv(bounded_ports.VARIABLE)
    bounded_ports.ask_for_bounds()
    assert os.environ[bounded_ports.VARIABLE] == bounded_ports.CALLBACK
