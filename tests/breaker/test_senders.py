"""Whatever a sender sends around a body: memory stays, its connection closes, and others are answered meanwhile."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from regraft.endpoint import http_protocol
from regraft.endpoint.api_keys import ApiKey, append, hashed, new_key
from regraft.endpoint.fair_shares import FairShares
from support import hostile_senders
from support.hostile_senders import CHUNKED, ENDLESS, GET, KINDS, LONG, MODEL, MUCH, POST, sent_until_closed
from support.served_endpoint import others_are_answered, served
from unit.endpoint.model_store import Endpoint, ModelStore

ASKED = {"inputs": "w5 w6"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> ModelStore:
    made = ModelStore(tmp_path_factory.mktemp("senders"))
    made.add()
    return made


@pytest.fixture(scope="module")
def endpoint(store: ModelStore) -> Iterator[Endpoint]:
    with store.open() as running:
        assert running.ask(MODEL, ASKED).status == 200
        yield running


def connected(endpoint: Endpoint) -> socket.socket:
    parts = urlsplit(endpoint.url)
    return hostile_senders.connected(str(parts.hostname), int(parts.port or 0))


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("kind", ENDLESS)
def test_nothing_without_end_is_taken(kind: str, endpoint: Endpoint) -> None:
    before = memory()
    with connected(endpoint) as connection:
        assert sent_until_closed(connection, *ENDLESS[kind]) < 40 << 20
    assert memory() - before < 50e6
    assert endpoint.ask(MODEL, ASKED).status == 200


def test_many_requests_ahead_of_their_answers_end_the_connection(endpoint: Endpoint) -> None:
    before = memory()
    one = POST + b'Content-Length: 16\r\n\r\n{"inputs": "w5"}'
    with connected(endpoint) as connection:
        assert sent_until_closed(connection, b"", one * 500) < 8 << 20
    assert memory() - before < 50e6


def test_a_few_requests_ahead_are_answered_in_order(endpoint: Endpoint) -> None:
    paths = ["/healthz", "/readyz", "/models", "/healthz"]
    with connected(endpoint) as connection:
        connection.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths))
        connection.settimeout(2)
        got = b""
        while got.count(b"HTTP/1.1 200") < 4 or not got.endswith(b"}"):
            got += connection.recv(1 << 16)
    assert [got.index(word) for word in (b"alive", b"ready", b"versions")] == sorted(
        got.index(word) for word in (b"alive", b"ready", b"versions")
    )


def test_a_trailer_changes_no_request(endpoint: Endpoint) -> None:
    body = json.dumps(ASKED).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connected(endpoint) as connection:
        connection.sendall(CHUNKED + chunks + b"0\r\nContent-Type: image/png\r\nContent-Encoding: gzip\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200"), "chunks of one byte are no attack"


@pytest.mark.parametrize(
    "head, status",
    [
        (b"POST /models/nobody HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"POST /models HTTP/1.1\r\nHost: localhost\r\n", 405),
        (POST.replace(b"localhost", b"evil.example"), 403),
        (POST + b"Origin: https://evil.example\r\n", 403),
        (POST + b"Content-Encoding: br\r\n", 415),
        (POST + b"Content-Length: 99999999\r\n", 413),
    ],
)
def test_a_refusal_is_read_and_then_the_connection_closes(head: bytes, status: int, endpoint: Endpoint) -> None:
    length = b"" if b"Content-Length" in head else b"Content-Length: 1000\r\n"
    with connected(endpoint) as connection:
        connection.sendall(head + length + b"\r\n{")
        got = b""
        with_body = iter(lambda: connection.recv(1 << 16), b"")
        for piece in with_body:
            got += piece
    assert got.split(b" ")[1] == str(status).encode()
    assert b"connection: close" in got.lower() and json.loads(got.partition(b"\r\n\r\n")[2])["status"] == status


@pytest.mark.parametrize("status", [401, 503])
def test_a_refusal_before_the_body_closes_the_connection(
    status: int, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(tmp_path / "keys", "shop")["authorization"]
    head = POST if status == 401 else POST + f"Authorization: {key}\r\n".encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    senders = {
        "chunks": (chunked, b"40000\r\n" + LONG + b"\r\n"),
        "trailers": (chunked + b"1\r\n{\r\n0\r\n", MUCH),
        "extensions": (chunked + b"1;", LONG),
        "a body": (head + b"Content-Length: 999999\r\n\r\n", LONG),
    }
    with store.open(keys=str(tmp_path / "keys")) as endpoint:
        if status == 503:
            monkeypatch.setattr(FairShares, "admits", lambda *_: False)
        for start, repeated in senders.values():
            with connected(endpoint) as connection:
                assert sent_until_closed(connection, start, repeated) < 40 << 20
        with connected(endpoint) as connection:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")
            got = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert got.split(b" ")[1] == str(status).encode()
    assert b"connection: close" in got.lower() and json.loads(got.partition(b"\r\n\r\n")[2])["status"] == status


def test_a_refusal_of_a_whole_body_keeps_the_connection(endpoint: Endpoint) -> None:
    parts = urlsplit(endpoint.url)
    connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=10)
    local, statuses = set(), []
    for body in ({"nothing": 1}, ASKED, {"inputs": 7}, ASKED):
        connection.request("POST", MODEL, json.dumps(body), {"content-type": "application/json"})
        local.add(connection.sock.getsockname())
        reply = connection.getresponse()
        statuses.append(reply.status)
        reply.read()
    connection.close()
    assert statuses == [422, 200, 422, 200] and len(local) == 1


@pytest.mark.parametrize("trickle", [b"\r\n", b"", b"x-a: b\r\n"])
def test_a_connection_that_asks_nothing_ends(
    trickle: bytes, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.4)
    with connected(endpoint) as connection:
        connection.sendall(GET + b"\r\n")
        assert b" 200 " in connection.recv(1000)
        connection.sendall(b"\r\n" if trickle in (b"\r\n", b"") else GET)
        connection.settimeout(0.05)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                if trickle:
                    connection.sendall(trickle)
                if connection.recv(100) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("it is still open")


def test_silent_connections_make_room_for_others(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "most_connections", lambda: 12)
    silent = [connected(endpoint) for _ in range(40)]
    try:
        for _ in range(5):
            assert endpoint.ask(MODEL, ASKED).status == 200
    finally:
        for connection in silent:
            connection.close()


def key_of(path: Path, name: str) -> dict[str, str]:
    made = new_key()
    append(path, ApiKey(name=name, sha256=hashed(made)))
    return {"authorization": f"Bearer {made}"}


def test_one_key_with_slow_bodies_keeps_no_place_from_another(store: ModelStore, tmp_path: Path) -> None:
    hog, other = key_of(tmp_path / "keys", "hog"), key_of(tmp_path / "keys", "other")
    head = POST + f"Authorization: {hog['authorization']}\r\nContent-Length: 100\r\n\r\n{{".encode()
    with store.open(keys=str(tmp_path / "keys"), limits={"queue": 2, "body_seconds": 20}) as endpoint:
        assert endpoint.ask(MODEL, ASKED, headers=other).status == 200
        slow = connected(endpoint)  # the other key's own slow body stays: the sender of most bodies loses its slowest
        slow.sendall(head.replace(hog["authorization"].encode(), other["authorization"].encode()))
        held = []
        for _ in range(40):
            held.append(connected(endpoint))
            held[-1].sendall(head)
        for _ in range(5):
            assert endpoint.ask(MODEL, ASKED, headers=other).status == 200
        assert b" 408 " in held[0].recv(1000)
        slow.sendall(b'"inputs": "w5"}' + b" " * 84)
        assert b" 200 " in slow.recv(1000)
        for connection in [slow, *held]:
            connection.close()


def test_one_key_that_asks_without_pause_leaves_another_its_share(store: ModelStore, tmp_path: Path) -> None:
    hog, other = key_of(tmp_path / "keys", "hog"), key_of(tmp_path / "keys", "other")
    with store.open(keys=str(tmp_path / "keys"), limits={"queue": 4}) as endpoint:
        endpoint.ask(MODEL, ASKED, headers=other)
        end = threading.Event()

        def ask() -> None:
            while not end.is_set():
                endpoint.ask(MODEL, ASKED, headers=hog)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            statuses = [endpoint.ask(MODEL, ASKED, headers=other).status for _ in range(20)]
        finally:
            end.set()
            for thread in threads:
                thread.join()
    assert statuses.count(200) >= 18, statuses


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_others_are_answered_beside_senders_without_end(store: ModelStore, tmp_path: Path, kind: str) -> None:
    key = key_of(tmp_path / "keys", "other")["authorization"].removeprefix("Bearer ")
    with served(tmp_path, store.store, "--replicas", "0", key=key, keys=str(tmp_path / "keys")) as endpoint:
        endpoint.seconds(2)
        others_are_answered(endpoint, kind)
