"""Admission to an endpoint: keys, the number of requests at once, and slow clients."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from regraft.endpoint import http_protocol
from regraft.endpoint.api_keys import ApiKey, ApiKeys, append, hashed, new_key, read
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.server import refuse_open_doors
from regraft.errors import RequestError
from regraft.spec.serve import ServeSpec
from unit.endpoint.model_store import Endpoint, ModelStore

MODEL = "/models/text-classification"
ASKED = {"inputs": "w5 w6"}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def append_key(path: Path, model: str) -> str:
    made = new_key()
    append(path, ApiKey(sha256=hashed(made), models=(model,)))
    return made


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str, str]:
    """Write a file with a key for everything and one for another model alone."""
    path, everything, other = tmp_path / "keys.yaml", new_key(), new_key()
    append(path, ApiKey(name="all", sha256=hashed(everything)))
    append(path, ApiKey(name="other", sha256=hashed(other), models=("other",)))
    return path, everything, other


def test_a_key_opens_what_it_is_for_and_no_key_opens_nothing(own: ModelStore, keys: tuple[Path, str, str]) -> None:
    path, everything, other = keys
    own.add(name="other", seed=2)
    with own.open(keys=str(path)) as endpoint:
        for headers in ({}, {"authorization": "Basic x"}, bearer("rg_wrong"), bearer(""), bearer("\u00e9")):
            reply = endpoint.ask(MODEL, ASKED, headers=headers)
            assert reply.status == 401
            assert "bearer" in reply.headers["www-authenticate"].lower()
        assert endpoint.ask(MODEL, ASKED, headers=bearer(everything)).status == 200
        assert endpoint.ask("/models/other", ASKED, headers=bearer(other)).status == 200
        for path_ in (MODEL, "/models/not-there"):  # this key must not learn whether it exists
            assert endpoint.ask(path_, ASKED, headers=bearer(other)).status == 403
        gone = append_key(path, "gone")
        time.sleep(2.1)  # a changed file is read again within two seconds
        reply = endpoint.get("/models/gone", headers=bearer(gone))
        assert reply.status == 404 and "text-classification" not in reply.document["error"], "nor who else is there"
        lists = [endpoint.get("/models", headers=bearer(key)).document["models"] for key in (everything, other)]
        names = [[model["name"] for model in models] for models in lists]
        assert names == [["other", "text-classification"], ["other"]]
        assert endpoint.get("/models").status == 401
        open_to_all = endpoint.get("/openapi.json").document["paths"]
        assert not [path for path in open_to_all if "other" in path or "text-classification" in path]
        for path_ in ("/", "/docs", "/healthz", "/readyz"):
            assert endpoint.get(path_).status == 200


def test_a_key_that_is_taken_away_opens_nothing_within_seconds(
    own: ModelStore, keys: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.endpoint.api_keys._RECHECK_S", 0.0)
    path, everything, _ = keys
    with own.open(keys=str(path)) as endpoint:
        assert endpoint.ask(MODEL, ASKED, headers=bearer(everything)).status == 200
        path.write_text("- {broken")
        assert endpoint.ask(MODEL, ASKED, headers=bearer(everything)).status == 200, "half written: no change"
        path.write_text(f"- {{sha256: {hashed('another')}}}\n")
        assert endpoint.ask(MODEL, ASKED, headers=bearer(everything)).status == 401


def test_keys_are_kept_as_hashes_that_others_may_not_read(keys: tuple[Path, str, str]) -> None:
    path, everything, _ = keys
    assert everything not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [key.name for key in read(path.read_text(), str(path))] == ["all", "other"]
    with pytest.raises(RequestError, match="there is a key of all already"):
        append(path, ApiKey(name="all", sha256=hashed("x")))


@pytest.mark.parametrize(
    "text", ["{", "a: b", "- 7", "- {sha256: abc}", "- {sha256: " + "0" * 64 + ", modles: [a]}", ""]
)
def test_a_file_that_holds_no_keys_is_refused_and_not_shown(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(RequestError, match=r"keys\.yaml"):
        ApiKeys.found(str(tmp_path / "keys.yaml"))


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_KEYS", f"[{{sha256: {hashed('given')}}}]")
    assert ApiKeys.found(None).check("Bearer given").may("any")
    with pytest.raises(HttpError):
        ApiKeys.found(None).check(None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_are_not_listened_to_without_keys(host: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="anybody could ask"):
        refuse_open_doors(ServeSpec(host=host))
    append(tmp_path / "keys", ApiKey(sha256=hashed("x")))
    refuse_open_doors(ServeSpec(host=host, keys=str(tmp_path / "keys")))
    refuse_open_doors(ServeSpec(host=host, open_to_all=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_no_keys(host: str) -> None:
    refuse_open_doors(ServeSpec(host=host))


def test_nothing_but_this_machine_is_listened_to_unless_asked(endpoint: Endpoint) -> None:
    import psutil

    mine = [line for line in psutil.Process().net_connections("inet") if line.status == psutil.CONN_LISTEN]
    assert mine
    assert all(line.laddr.ip == "127.0.0.1" for line in mine)


def test_what_is_too_much_is_refused_at_once_and_the_rest_answered(own: ModelStore) -> None:
    with own.open(limits={"queue": 4}) as endpoint:
        slowed = endpoint.opened.backend
        answer = slowed.answer

        async def slow(*args: Any) -> Any:
            import asyncio

            await asyncio.sleep(0.5)
            return await answer(*args)

        slowed.answer = slow  # type: ignore[method-assign]
        times: list[tuple[int, float, str]] = []

        def ask(_: int) -> None:
            began = time.perf_counter()
            reply = endpoint.ask(MODEL, ASKED)
            times.append((reply.status, time.perf_counter() - began, reply.headers.get("retry-after", "")))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(16)))
    answered = [status for status, _, _ in times if status == 200]
    refused = [(seconds, retry) for status, seconds, retry in times if status == 503]
    assert len(answered) >= 4 and len(refused) >= 4 and len(answered) + len(refused) == 16
    assert all(int(retry) >= 1 for _, retry in refused)
    # Not a speed test: refused requests wait for no others, while each answer takes half a second.
    quickest = min(seconds for status, seconds, _ in times if status == 200)
    assert min(seconds for seconds, _ in refused) < quickest


def test_an_answer_that_takes_too_long_is_given_up(own: ModelStore) -> None:
    with own.open(limits={"seconds": 0.2}) as endpoint:
        assert endpoint.ask(MODEL, ASKED).status in (200, 503)

        async def never(*_: Any) -> Any:
            import asyncio

            await asyncio.sleep(60)

        endpoint.opened.backend.answer = never  # type: ignore[method-assign]
        began = time.perf_counter()
        reply = endpoint.ask(MODEL, ASKED)
        assert (reply.status, reply.document["kind"]) == (503, "TookTooLong")
        assert time.perf_counter() - began < 5
        assert endpoint.get("/healthz").status == 200


def line_to(endpoint: Endpoint) -> socket.socket:
    parts = urlsplit(endpoint.url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=20)


def test_who_sends_slowly_is_hung_up_on_and_holds_up_nobody(own: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.5)
    with own.open(limits={"body_seconds": 0.5}) as endpoint:
        endpoint.ask(MODEL, ASKED)
        heads = [line_to(endpoint) for _ in range(30)]
        for line in heads[:20]:
            line.sendall(b"POST /models/text-classification HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        bodies = [line_to(endpoint) for _ in range(20)]
        for line in bodies:
            line.sendall(f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
        began = time.perf_counter()
        assert endpoint.ask(MODEL, ASKED).status == 200
        assert time.perf_counter() - began < 5
        for line in heads:
            assert line.recv(1000) == b"", "ended without a word: nothing was asked yet"
        for line in bodies:
            assert b" 408 " in line.recv(4000).split(b"\r\n")[0]
        for line in heads + bodies:
            line.close()
        assert endpoint.ask(MODEL, ASKED).status == 200


def test_who_sends_slowly_takes_no_place_of_those_who_are_answered(own: ModelStore) -> None:
    with own.open(limits={"queue": 2, "body_seconds": 20}) as endpoint:
        endpoint.ask(MODEL, ASKED)
        bodies = [line_to(endpoint) for _ in range(12)]
        for line in bodies:
            line.sendall(f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.2)
        assert endpoint.ask(MODEL, ASKED).status == 200
        more = [line_to(endpoint) for _ in range(8)]
        for line in more:
            line.sendall(f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.2)
        assert endpoint.ask(MODEL, ASKED).status == 200, "the slowest bodies make room"
        assert b" 408 " in bodies[0].recv(4000).split(b"\r\n")[0]
        for line in bodies + more:
            line.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "localhost.x"])
def test_a_page_whose_name_points_here_is_not_answered(host: str, endpoint: Endpoint) -> None:
    for path, method in ((MODEL, "POST"), ("/models", "GET")):
        reply = endpoint.ask(path, ASKED if method == "POST" else None, method=method, headers={"host": host})
        assert (reply.status, reply.document["kind"]) == (403, "StrangeHost")
    for good in ("localhost", "localhost:80", "127.0.0.1:8000", "[::1]:8000"):
        assert endpoint.ask(MODEL, ASKED, headers={"host": good}).status == 200


def test_who_hangs_up_leaves_nothing_behind(own: ModelStore) -> None:
    with own.open(limits={"queue": 2}) as endpoint:
        for _ in range(10):
            line = line_to(endpoint)
            line.sendall(f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
            line.close()
        deadline = time.monotonic() + 10
        while endpoint.ask(MODEL, ASKED).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_was_begun_is_answered_when_it_ends(own: ModelStore) -> None:
    statuses: list[int] = []
    with own.open() as endpoint:
        endpoint.ask(MODEL, ASKED)
        answer = endpoint.opened.backend.answer
        begun = threading.Event()

        async def slow(*args: Any) -> Any:
            import asyncio

            begun.set()
            await asyncio.sleep(0.5)
            return await answer(*args)

        endpoint.opened.backend.answer = slow  # type: ignore[method-assign]
        thread = threading.Thread(target=lambda: statuses.append(endpoint.ask(MODEL, ASKED).status))
        thread.start()
        assert begun.wait(5)
    thread.join()
    assert statuses == [200]


def test_the_page_asks_for_nothing_outside(endpoint: Endpoint) -> None:
    for path in ("/", "/docs"):
        reply = endpoint.get(path)
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert b"http://" not in reply.body and b"https://" not in reply.body


def test_a_port_that_is_taken_is_reported(own: ModelStore, endpoint: Endpoint) -> None:
    port = urlsplit(endpoint.url).port
    with pytest.raises(RequestError, match=f"{port} cannot be listened on"), own.open(port=port):
        pass


def test_the_first_model_that_cannot_open_is_reported(own: ModelStore) -> None:
    with pytest.raises(RequestError, match="does not exist"), own.open(models=["nobody"]):
        pass


def test_json_is_what_it_was(endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, ASKED)
    assert reply.headers["x-model-version"] == "v1"
    assert len(reply.headers["x-model-delta"]) == 64
    assert json.loads(reply.body) == reply.document
    assert os.environ.get("REGRAFT_KEYS") is None
