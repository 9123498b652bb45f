"""On Ray, at Serve's own proxy and behind HAProxy, senders are bounded as they are without Ray."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import psutil
import pytest

from regraft.endpoint.api_keys import ApiKey, append, hashed, new_key
from support.hostile_senders import ENDLESS, GET, KINDS, connected, sent_until_closed
from support.served_endpoint import ServedEndpoint, others_are_answered, served
from unit.endpoint.model_store import ModelStore

REPLICAS = (8500, *range(30_000, 31_001))
"""Ports at which HAProxy asks the replicas, and Serve's own proxy where there are none."""


@pytest.fixture(scope="module", params=["python", "haproxy"])
def endpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, clean_environment: None
) -> Iterator[ServedEndpoint]:
    """An endpoint beyond loopback, with a key."""
    folder, key = tmp_path_factory.mktemp(request.param), new_key()
    store = ModelStore(folder)
    store.add()
    append(folder / "keys", ApiKey(name="other", sha256=hashed(key)))
    spec = {"host": "0.0.0.0", "keys": str(folder / "keys"), "proxy": request.param, "replica": {"gpus": 0}}
    with served(folder, store.store, key=key, **spec) as running:
        running.seconds(2)
        yield running


def listening(endpoint: ServedEndpoint) -> dict[int, str]:
    """Return the addresses by port at which the processes that serve requests take connections."""
    found = {}
    for process in endpoint.serving():
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                found[one.laddr.port] = f"{process.name()} {one.laddr.ip}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDLESS)
def test_nothing_without_end_is_taken(endpoint: ServedEndpoint, kind: str) -> None:
    before = endpoint.memory()
    # HAProxy passes such chunks on without their extensions: time ends them there, and not their bytes.
    by_time = kind == "extensions of many chunks"
    bound: dict[str, float] = {"seconds": 60, "most": math.inf} if by_time else {}
    with connected("127.0.0.1", endpoint.port) as connection:
        assert sent_until_closed(connection, *ENDLESS[kind], **bound) < (math.inf if by_time else 40 << 20)
    assert endpoint.memory() - before < 50e6
    assert endpoint.ask() == 200


@pytest.mark.slow
def test_a_replica_s_own_port_is_bounded_and_asks_for_a_key(endpoint: ServedEndpoint) -> None:
    for port in set(REPLICAS) & listening(endpoint).keys():
        assert endpoint.ask(port=port) == 200
        assert endpoint.ask(port=port, key="rg_wrong") == 401
        before = endpoint.memory()
        for kind in ("many headers", "one header", "trailers", "a chunk's extension"):
            with connected("127.0.0.1", port) as connection:
                assert sent_until_closed(connection, *ENDLESS[kind]) < 40 << 20
        assert endpoint.memory() - before < 50e6


@pytest.mark.slow
def test_statistics_are_for_this_machine_alone(endpoint: ServedEndpoint) -> None:
    ports = {port: text for port, text in listening(endpoint).items() if text.startswith("haproxy ")}
    beyond = {port for port, text in ports.items() if not text.endswith(" 127.0.0.1")}
    assert beyond <= {endpoint.port}, ports
    print(ports)


@pytest.mark.slow
def test_its_log_names_no_open_heads(endpoint: ServedEndpoint) -> None:
    assert "bounds neither heads" not in endpoint.log.read_text()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_others_are_answered_beside_senders_without_end(endpoint: ServedEndpoint, kind: str) -> None:
    others_are_answered(endpoint, kind)


@pytest.mark.slow
def test_a_silent_head_ends(endpoint: ServedEndpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=20) as connection:
        connection.sendall(GET)
        while connection.recv(1000):
            pass
