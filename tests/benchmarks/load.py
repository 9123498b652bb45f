"""Requests from many connections at once, and servers that are kept on a core of their own."""

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
    """One request: when it was sent (monotonic), how it ended (status 0: not at all) and how long that took."""

    at: float
    status: int
    seconds: float
    retry_after: float | None = None


@dataclass
class Target:
    """Where texts are asked."""

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
        """Score by label of one text, asked by itself."""

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
    """Connections that are kept open, `connections` at most."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=120)
    )


async def closed(target: Target, texts: Sequence[str], connections: int, seconds: float) -> list[Reply]:
    """Each connection asks its next text when the last is answered."""
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
    """Answers a second, from the first request to the last answer."""
    good = [reply for reply in replies if reply.status == 200]
    if not good:
        return 0.0
    return len(good) / (max(reply.at + reply.seconds for reply in good) - min(reply.at for reply in replies))


def percentile(replies: Sequence[Reply], share: float, *, status: int = 200) -> float:
    """Milliseconds within which that share of the requests with this status ended."""
    times = sorted(reply.seconds for reply in replies if reply.status == status)
    return round(1000 * times[min(len(times) - 1, int(share * len(times)))], 1) if times else 0.0


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@cache
def cores() -> tuple[set[int], set[int]]:
    """One for the server, one for the load; the same one where there is no other.

    Found once: whoever keeps to the load's core has no other any more, and would put the next server there too.
    """
    there = sorted(os.sched_getaffinity(0))
    return {there[0]}, {there[-1]}


@contextmanager
def served(command: Sequence[str], url: str, log: Path, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """A server and all that it starts on the server's core, from when it answers until it is ended."""
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
    """Wait for it, or say what the server said when it ended."""
    deadline = time.monotonic() + UP_S
    while not true():
        if running.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


def up(url: str) -> bool:
    """Whether somebody answers a text there."""
    import urllib.request

    body = json.dumps({"inputs": "a film"}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def memory(processes: Sequence[psutil.Process]) -> float:
    """Megabytes of a server's processes (`family`)."""
    total = 0
    for one in processes:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    """A server and all that it started. Looking for them takes long enough to hold up a load that runs beside it."""
    return [process, *process.children(recursive=True)]


def worked(process: psutil.Process) -> float:
    """CPU seconds of a server and all that it started; what has ended meanwhile is not in it."""
    total = 0.0
    for one in family(process):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
