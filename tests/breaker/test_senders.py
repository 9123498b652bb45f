"""Whatever a sender sends around a body: memory stays, its connection closes, and others are answered meanwhile."""

from __future__ import annotations

import gc
import itertools
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
from unit.endpoint.model_store import Endpoint, ModelStore

MODEL = "/models/text-classification"
ASKED = {"inputs": "w5 w6"}
POST = f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UNKNOWN = b"POST /models/nobody HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
MUCH = b"x-a: b\r\n" * (1 << 15)
LONG = b"a" * (1 << 18)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
ENDLESS = {
    "many headers": (GET, MUCH),
    "one header": (GET + b"x: ", LONG),
    "an address": (b"GET /healthz?", LONG),
    "a method": (b"", LONG),
    "empty lines": (b"", b"\r\n" * (1 << 17)),
    "the name of a header": (GET, LONG),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", MUCH),
    "one trailer": (CHUNKED + b"1\r\n{\r\n0\r\nx: ", LONG),
    "a chunk's extension": (CHUNKED + b"1;", LONG),
    "extensions of many chunks": (CHUNKED, (b"1;" + b"a" * 4000 + b"\r\n{\r\n") * 64),
    "trailers after a refusal": (UNKNOWN + b"1\r\n{\r\n0\r\n", MUCH),
    "extensions after a refusal": (UNKNOWN + b"1;", LONG),
    "chunks after a refusal": (UNKNOWN, b"40000\r\n" + LONG + b"\r\n"),
    "a body after a refusal": (UNKNOWN.replace(b"Transfer-Encoding: chunked", b"Content-Length: 999999999"), LONG),
    "a body that is not asked for": (GET + b"Content-Length: 999999999\r\n\r\n", LONG),
    "a body that is too large": (CHUNKED, b"40000\r\n" + LONG + b"\r\n"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("REGRAFT_KEYS", raising=False)
        made = ModelStore(tmp_path_factory.mktemp("senders"))
        made.add()
        yield made


@pytest.fixture(scope="module")
def endpoint(store: ModelStore) -> Iterator[Endpoint]:
    with store.open() as running:
        assert running.ask(MODEL, ASKED).status == 200
        yield running


def connected(endpoint: Endpoint) -> socket.socket:
    parts = urlsplit(endpoint.url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10)


def sent_until_closed(connection: socket.socket, start: bytes, repeated: bytes, most: int, seconds: float) -> int:
    """Send without end; return the bytes that were taken before the connection closed. Fails when it never does."""
    count, deadline = 0, time.monotonic() + seconds
    try:
        connection.sendall(start)
        while count < most and time.monotonic() < deadline:
            connection.sendall(repeated)
            count += len(repeated)
    except OSError:
        return count
    raise AssertionError(f"{count:,} bytes were taken and the connection is open")


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def median(endpoint: Endpoint, count: int = 9) -> float:
    """Return the median seconds of a request, each of which is answered."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        assert endpoint.ask(MODEL, ASKED).status == 200
        times.append(time.perf_counter() - began)
    return sorted(times)[count // 2]


@pytest.mark.parametrize("kind", ENDLESS)
def test_nothing_without_end_is_taken(kind: str, endpoint: Endpoint) -> None:
    before = memory()
    with connected(endpoint) as connection:
        taken = sent_until_closed(connection, *ENDLESS[kind], most=64 << 20, seconds=20)
    assert taken < 40 << 20
    assert memory() - before < 50e6
    assert endpoint.ask(MODEL, ASKED).status == 200


def test_many_requests_ahead_of_their_answers_end_the_connection(endpoint: Endpoint) -> None:
    before = memory()
    one = POST + b'Content-Length: 16\r\n\r\n{"inputs": "w5"}'
    with connected(endpoint) as connection:
        assert sent_until_closed(connection, b"", one * 500, most=64 << 20, seconds=20) < 8 << 20
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


@pytest.mark.slow
def test_endless_senders_beside_others_for_a_minute(endpoint: Endpoint) -> None:
    alone, before, end = median(endpoint, 50), memory(), threading.Event()

    def send() -> None:
        for kind in itertools.cycle(ENDLESS):
            if end.is_set():
                return
            with connected(endpoint) as connection:
                sent_until_closed(connection, *ENDLESS[kind], most=64 << 20, seconds=20)
            time.sleep(0.05)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        beside = [median(endpoint, 20) for _ in range(30)]
    finally:
        end.set()
        sender.join()
    print(f"median alone {alone * 1e3:.1f} ms, beside {sorted(beside)[15] * 1e3:.1f} ms")
    assert memory() - before < 50e6
    assert sorted(beside)[15] < 2 * alone + 0.05
