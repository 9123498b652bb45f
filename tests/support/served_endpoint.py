"""An endpoint that a command serves in a process of its own, and hostile senders beside it, in theirs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from support.hostile_senders import MODEL
from support.paths import PLATFORM, ROOT
from support.processes import free_port

ASKED = json.dumps({"inputs": "w5 w6"}).encode()
SERVES = ("regraft serve", "ProxyActor", "ServeReplica", "haproxy")
"""Parts of the command lines of the processes that requests pass through."""


@dataclass
class ServedEndpoint:
    """An endpoint of another process."""

    port: int
    key: str
    process: psutil.Process
    log: Path

    def ask(self, host: str = "127.0.0.1", port: int | None = None, key: str | None = None) -> int:
        """Return the status of one request on a connection of its own."""
        line = http.client.HTTPConnection(host, port or self.port, timeout=30)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key if key is None else key}"}
        try:
            line.request("POST", MODEL, ASKED, headers)
            answer = line.getresponse()
            answer.read()
            return answer.status
        finally:
            line.close()

    def seconds(self, lasting: float) -> list[float]:
        """Return the times of requests that are asked one after the other; each is answered."""
        found, end = [], time.monotonic() + lasting
        while time.monotonic() < end:
            began = time.perf_counter()
            assert self.ask() == 200
            found.append(time.perf_counter() - began)
        return found

    def serving(self) -> list[psutil.Process]:
        """Return the processes that requests pass through."""
        found = []
        for one in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # one that ends meanwhile
                if any(part in " ".join([*one.cmdline(), one.name()]) for part in SERVES):
                    found.append(one)
        return found

    def memory(self) -> int:
        """Return the bytes that those processes hold in memory."""
        total = 0
        for one in self.serving():
            with suppress(psutil.NoSuchProcess):
                total += int(one.memory_info().rss)
        return total


@contextmanager
def served(folder: Path, store: str, *options: str, key: str = "", **spec: Any) -> Iterator[ServedEndpoint]:
    """Serve a store by `regraft serve` with these options and keys of the spec, until the block ends."""
    port = free_port()
    document = {"store": store, "models": ["text-classification"], "port": port, "device": "cpu", **spec}
    (folder / "SERVE.yaml").write_text(json.dumps(document))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    environment |= {"PYTHONPATH": f"{PLATFORM}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "regraft", "serve", str(folder / "SERVE.yaml"), *options]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        made = ServedEndpoint(port, key, psutil.Process(running.pid), folder / "log")
        _wait(made, running)
        yield made
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


def _wait(endpoint: ServedEndpoint, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while True:
        assert running.poll() is None and time.monotonic() < deadline, endpoint.log.read_text()[-2000:]
        with suppress(OSError, http.client.HTTPException):
            if endpoint.ask() == 200:
                return
        time.sleep(0.3)


@contextmanager
def senders(kind: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run hostile senders of this kind in a process of their own, which is paused at first."""
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command: Sequence[str] = [sys.executable, "-m", "support.hostile_senders", "127.0.0.1", str(port), kind]
    running = subprocess.Popen(command, env=environment)
    try:
        running.send_signal(signal.SIGSTOP)
        yield running
    finally:
        running.kill()
        running.wait()


def alone_and_beside(endpoint: ServedEndpoint, kind: str, seconds: float, window: float = 2.0) -> tuple[float, float]:
    """Return the 99th percentile of a request's seconds without and with senders of this kind.

    Both are measured by turns, so that whatever else this machine does meets both.
    """
    alone: list[float] = []
    beside: list[float] = []
    end = time.monotonic() + seconds
    with senders(kind, endpoint.port) as running:
        while time.monotonic() < end:
            alone += endpoint.seconds(window)
            running.send_signal(signal.SIGCONT)
            time.sleep(0.2)
            beside += endpoint.seconds(window)
            assert running.poll() is None, "the senders have ended"
            running.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
    print(f"{kind}: {_line(alone)} alone, {_line(beside)} beside")
    return _quantile(alone, 0.99), _quantile(beside, 0.99)


def others_are_answered(endpoint: ServedEndpoint, kind: str) -> None:
    """Beside senders of this kind a request's p99 at most doubles, and memory grows by less than 50 MB."""
    before = endpoint.memory()
    alone, beside = alone_and_beside(endpoint, kind, seconds=24)
    grown = endpoint.memory() - before
    print(f"memory + {grown / 1e6:.1f} MB")
    assert grown < 50e6
    assert beside <= 2 * alone


def _line(found: Sequence[float]) -> str:
    of = ", ".join(f"p{share * 100:g} {_quantile(found, share) * 1e3:.1f} ms" for share in (0.5, 0.9, 0.99))
    return f"{len(found)} requests, {of}"


def _quantile(found: Sequence[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(share * len(found)))]
