"""A load of many concurrent connections, and servers pinned to a core."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import psutil

UP_S = 300.0


@dataclass(frozen=True)
class Reply:
    """One request: time of sending (monotonic), status (0: no response) and duration in seconds."""

    at: float
    status: int
    seconds: float
    retry_after: float | None = None


@dataclass
class Target:
    """The address that texts are sent to."""

    url: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    async def ask(self, session: aiohttp.ClientSession, text: str) -> Reply:
        began = time.monotonic()
        try:
            async with session.post(self.url + self.path, json={"inputs": text}, headers=self.headers) as answer:
                await answer.read()
                after = answer.headers.get("retry-after")
                return Reply(began, answer.status, time.monotonic() - began, float(after) if after else None)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return Reply(began, 0, time.monotonic() - began)

    def answer(self, text: str) -> dict[str, float]:
        """Return the score of each label for one text, sent alone."""

        async def once() -> Any:
            line = aiohttp.ClientSession()
            body = {"inputs": text}
            async with line, line.post(self.url + self.path, json=body, headers=self.headers) as reply:
                assert reply.status == 200, await reply.text()
                return await reply.json()

        found = asyncio.run(once())
        rows = found[0] if isinstance(found[0], list) else found
        return {row["label"]: row["score"] for row in rows}


def session(connections: int) -> aiohttp.ClientSession:
    """Keep at most `connections` connections open."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=120)
    )


async def closed(target: Target, texts: Sequence[str], connections: int, seconds: float) -> list[Reply]:
    """Send texts over each connection, the next after the last response."""
    until = time.monotonic() + seconds
    replies: list[Reply] = []

    async def client(number: int, line: aiohttp.ClientSession) -> None:
        place = number
        while time.monotonic() < until:
            replies.append(await target.ask(line, texts[place % len(texts)]))
            place += connections

    async with session(connections) as line:
        await asyncio.gather(*(client(number, line) for number in range(connections)))
    return replies


def rate(replies: Sequence[Reply]) -> float:
    """Return responses per second, from the first request to the last response."""
    good = [reply for reply in replies if reply.status == 200]
    if not good:
        return 0.0
    return len(good) / (max(reply.at + reply.seconds for reply in good) - min(reply.at for reply in replies))


def percentile(replies: Sequence[Reply], share: float, *, status: int = 200) -> float:
    """Return a percentile of the durations of requests with this status, in milliseconds."""
    times = sorted(reply.seconds for reply in replies if reply.status == status)
    return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 1) if times else 0.0


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@cache
def cores() -> tuple[set[int], set[int]]:
    """Return a core for the server and one for the load; the same one if there is only one.

    Cached: after this process is pinned to the load's core, it would see only that one.
    """
    there = sorted(os.sched_getaffinity(0))
    return {there[0]}, {there[-1]}


@contextmanager
def served(command: Sequence[str], url: str, log: Path, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Run a server and its children on the server's core; yield once it answers, then end it."""
    core, _ = cores()

    def pinned() -> None:
        os.sched_setaffinity(0, core)
        os.setsid()

    with log.open("wb") as file:
        running = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **environment}, preexec_fn=pinned
        )
    process = psutil.Process(running.pid)
    try:
        wait_until(lambda: up(url), running, log)
        yield process
    finally:
        those = family(process) if process.is_running() else []
        running.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.wait(60)
        for one in those:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue


def wait_until(true: Callable[[], bool], running: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers; raise with its output if it ends."""
    deadline = time.monotonic() + UP_S
    while not true():
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def up(url: str) -> bool:
    """Return whether a server answers a text there, or a GET of its /readyz."""
    import urllib.request

    body = None if url.endswith("/readyz") else json.dumps({"inputs": "a film"}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def memory(processes: Sequence[psutil.Process]) -> float:
    """Return megabytes of a server's processes (`family`)."""
    total = 0
    for one in processes:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a server's process and its descendants; slow enough to disturb a load that runs at the same time."""
    return [process, *process.children(recursive=True)]


def worked(process: psutil.Process) -> float:
    """Return CPU seconds of a server and its living descendants."""
    total = 0.0
    for one in family(process):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
