"""HAProxy with Ray Serve's configuration and regraft's rules refuses excess requests before they reach a replica."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from regraft.cluster.haproxy import ARRIVES_S, FULL, HELD_MS, TRUSTED_MS, haproxy, with_rules
from support.processes import free_port
from unit.endpoint.model_store import ModelStore

MODEL = "text-classification"
APPLICATION, OTHER = "http-regraft", "http-other"
ROOM = "x-regraft-room"


class Replica(ThreadingHTTPServer):
    """A fake replica: answers everything, counts requests, and states the queue space that the test sets."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.room: str | None = None
        self.asked = 0
        self.holds = threading.Event()
        """Clear while requests wait for their answers."""
        self.holds.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Replica
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.server.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.server.holds.wait(20)
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        if self.server.room is not None:
            self.send_header(ROOM, self.server.room)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


def configuration(
    folder: Path, port: int, replicas: list[int], *, metrics: int | None = None, grpc: bool = False
) -> Path:
    """Write what Ray Serve writes for applications at / and /other with the same replicas."""
    written = folder / "haproxy.cfg"
    functions = ["ray.serve.generated.serve_pb2_grpc.add_UserDefinedServiceServicer_to_server"]
    config = HAProxyConfig(
        grpc_options=gRPCOptions(port=free_port(), grpc_servicer_functions=functions if grpc else []),
        http_options=HTTPOptions(host="127.0.0.1", port=port, keep_alive_timeout_s=30),
        socket_path=str(folder / "admin.sock"),
        metrics_port=metrics or free_port(),
        metrics_socket_path=str(folder / "metrics.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        has_received_routes=True,
        has_received_servers=True,
    )
    servers = [ServerConfig(f"replica-{number}", "127.0.0.1", one) for number, one in enumerate(replicas)]
    backends = {
        APPLICATION: BackendConfig(name=APPLICATION, path_prefix="/", app_name="regraft", servers=servers),
        OTHER: BackendConfig(name=OTHER, path_prefix="/other", app_name="other", servers=servers),
    }
    if grpc:
        kind = RequestProtocol.GRPC
        backends["grpc-regraft"] = BackendConfig(
            "grpc-regraft", "/", app_name="regraft", servers=servers, protocol=kind
        )
    HAProxyApi(config, backends, config_file_path=str(written))._generate_config_file_internal()
    return written


def checked(written: Path) -> subprocess.CompletedProcess[str]:
    """Have the command validate a configuration."""
    command = [sys.executable, "-m", "regraft.cluster.haproxy", "-c", "-f", str(written)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Front:
    """HAProxy in front of replicas."""

    def __init__(self, port: int, replicas: list[Replica], metrics: int = 0) -> None:
        self.port, self.replicas, self.metrics = port, replicas, metrics

    def ask(
        self, method: str = "POST", path: str = "/models/a", body: bytes = b"{}"
    ) -> tuple[int, dict[str, str], Any]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            line.request(method, path, body if method == "POST" else None)
            reply = line.getresponse()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(reply.read())
        finally:
            line.close()

    def tell(self, room: str | None) -> None:
        """What the replicas say from now on; one answer more tells it."""
        for replica in self.replicas:
            replica.room = room
        assert self.ask()[0] == 200

    def refused(self) -> int:
        """As HAProxy's own figures tell it."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        mark = f'haproxy_backend_requests_denied_total{{proxy="{APPLICATION}"}} '
        return next(int(line.removeprefix(mark)) for line in lines if line.startswith(mark))

    @property
    def asked(self) -> int:
        return sum(replica.asked for replica in self.replicas)


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    replicas = [Replica() for _ in range(request.param)]
    port, metrics = free_port(), free_port()
    written = configuration(tmp_path, port, [one.server_port for one in replicas], metrics=metrics)
    command = [sys.executable, "-m", "regraft.cluster.haproxy", "-db", "-f", str(written)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while (tmp_path / "log").read_text().count("/replica-") < 2 * len(replicas):  # as many told to be up
            assert running.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        assert str(written).encode() in Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0"), (
            "Ray looks for it"
        )
        yield Front(port, replicas, metrics)
    finally:
        running.kill()
        running.wait()
        for one in replicas:
            one.shutdown()
            one.server_close()


def test_what_replicas_have_room_for_passes_and_their_word_of_it_stays_inside(front: Front) -> None:
    front.tell("5")
    for _ in range(10):  # each answer tells of room anew
        status, headers, _ = front.ask()
        assert status == 200 and ROOM not in headers
    assert front.asked == 11


def test_what_has_no_room_reaches_no_replica(front: Front) -> None:
    front.tell("0")
    asked, began = front.asked, time.monotonic()
    status, headers, body = front.ask()
    took = time.monotonic() - began
    assert (status, headers["retry-after"], body) == (503, "1", FULL.document())
    assert headers["content-type"] == "application/json"
    assert took >= HELD_MS / 1000, "who comes again at once is slowed down"
    assert front.asked == asked and front.refused() == 1
    assert front.ask("GET", "/models")[0] == 200
    assert front.ask(path="/other/models/a")[0] == 200, "another application has room of its own"


def test_statistics_listen_on_this_machine_alone(tmp_path: Path) -> None:
    ports = (free_port(), free_port())
    written = configuration(tmp_path, ports[0], [free_port()], metrics=ports[1])
    before = [line.strip() for line in written.read_text().splitlines() if line.strip().startswith("bind")]
    after = [line.strip() for line in with_rules(written.read_text()).splitlines() if line.strip().startswith("bind")]
    assert len(before) == len(after) == 3 and any("*:" in line for line in before)
    assert all(line.split()[1].startswith("127.0.0.1:") for line in after)


def test_heads_and_trailers_without_end_end_the_connection(front: Front) -> None:
    head = b"POST /models/a HTTP/1.1\r\nHost: localhost\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    for start, more in (
        (head, b"x-a: b\r\n" * 8192),
        (head + b"x: ", b"a" * 65536),
        (chunked + b"0\r\n", b"a: b\r\n" * 8192),
    ):
        with socket.create_connection(("127.0.0.1", front.port), timeout=10) as connection:
            try:
                connection.sendall(start)
                for _ in range(400):
                    connection.sendall(more)
                raise AssertionError("25 MB were taken")
            except OSError:
                pass
    assert front.ask()[0] == 200


def test_a_sender_of_a_large_body_is_answered_too(front: Front) -> None:
    front.tell("0")
    status, headers, body = front.ask(body=b"x" * (5 << 20))
    assert (status, headers["retry-after"], body) == (503, "1", FULL.document())


def test_what_asks_no_model_or_is_refused_takes_none(front: Front) -> None:
    front.tell("1")
    for replica in front.replicas:
        replica.room = None
    for path in ("/x", "/healthz", "/models/a"):
        assert [front.ask(path=path)[0] for _ in range(5)] == [200] * 5


def test_room_is_counted_down_until_an_answer_tells_anew(front: Front) -> None:
    front.tell("2")
    room = 2 * len(front.replicas)
    for replica in front.replicas:
        replica.holds.clear()
    with ThreadPoolExecutor(room) as clients:
        held = [clients.submit(front.ask) for _ in range(room)]
        deadline = time.monotonic() + 10
        while front.asked < 1 + room:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert front.ask()[0] == 503
        for replica in front.replicas:
            replica.holds.set()
        assert [one.result()[0] for one in held] == [200] * room
    assert front.ask()[0] == 200


def test_replicas_that_tell_nothing_for_a_while_are_asked_again(front: Front) -> None:
    front.tell("0")
    assert front.ask()[0] == 503
    time.sleep(TRUSTED_MS / 1000 + 0.2)
    for replica in front.replicas:
        replica.room = "9"
    assert [front.ask()[0] for _ in range(3)] == [200] * 3


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"Content-Length: 100\r\n\r\nhalf"], ids=["head", "body"])
def test_who_sends_slowly_takes_no_room_and_is_hung_up_on(front: Front, sent: bytes) -> None:
    front.tell("2")
    lines = [socket.create_connection(("127.0.0.1", front.port), timeout=ARRIVES_S + 10) for _ in range(20)]
    try:
        for line in lines:
            line.sendall(b"POST /models/a HTTP/1.1\r\nHost: localhost\r\n" + sent)
        began = time.monotonic()
        assert front.ask()[0] == 200
        assert b" 408 " in lines[-1].recv(1000)
        assert time.monotonic() - began < ARRIVES_S + 5
    finally:
        for line in lines:
            line.close()
    assert front.asked == 2


def test_the_rules_are_added_once_and_only_where_they_have_a_place(tmp_path: Path) -> None:
    plain = configuration(tmp_path, 8000, [8001]).read_text()
    ours = with_rules(plain)
    assert ours != plain and with_rules(ours) == ours
    assert ours.count("tarpit deny_status") == 2, "each application has its own"
    elsewhere = plain.replace("frontend http_frontend", "frontend another")
    assert with_rules(elsewhere) == elsewhere


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "http and grpc"])
def test_haproxy_takes_the_rules(tmp_path: Path, grpc: bool) -> None:
    written = configuration(tmp_path, free_port(), [free_port()], grpc=grpc)
    assert ("proto h2" in written.read_text()) == grpc
    said = checked(written)
    assert said.returncode == 0, said.stderr
    assert "tarpit" in written.read_text()
    shutil.copy(written, tmp_path / "again")
    assert checked(tmp_path / "again").returncode == 0


def test_the_command_does_not_become_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", sys.executable)
    assert Path(haproxy()).name == "haproxy"


@pytest.mark.slow
def test_an_endpoint_behind_haproxy_refuses_there(tmp_path: Path) -> None:
    model_store, port = ModelStore(tmp_path), free_port()
    model_store.add()
    spec = tmp_path / "SERVE.yaml"
    spec.write_text(
        f"models: [{MODEL}]\nstore: {model_store.store}\nport: {port}\nproxy: haproxy\nopen_to_all: true\ndevice: cpu\n"
        "limits: {queue: 2}\nreplica: {gpus: 0}\n"
    )
    mine = {"RAY_AUTH_MODE": "token", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    mine |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | mine
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "regraft", "serve", str(spec)]
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    front = Front(port, [])
    try:
        wait_for(front, running, tmp_path / "log")
        with ThreadPoolExecutor(40) as clients:
            replies = list(clients.map(lambda _: asked_as_a_model(front), range(400)))
        assert {status for status, _, _ in replies} == {200, 503}
        refused = [(headers, body) for status, headers, body in replies if status == 503]
        assert all(headers["retry-after"] for headers, _ in refused)
        assert sum(body == FULL.document() for _, body in refused) > len(refused) / 2, "most were refused by HAProxy"
        time.sleep(TRUSTED_MS / 1000)
        status, headers, _ = asked_as_a_model(front)
        assert status == 200 and ROOM not in headers
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(90)


def asked_as_a_model(front: Front) -> tuple[int, dict[str, str], Any]:
    line = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
    try:
        line.request("POST", f"/models/{MODEL}", b'{"inputs": "w5 w6 w7"}', {"content-type": "application/json"})
        reply = line.getresponse()
        headers, body = {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        return reply.status, headers, json.loads(body) if "json" in headers["content-type"] else body
    finally:
        line.close()


def wait_for(front: Front, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert running.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        try:
            if asked_as_a_model(front)[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.5)
