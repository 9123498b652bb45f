"""One of several hosts that share a store, as a process with a clock and a name of its own.

`python -m support.skewed_hosts URL NAME AHEAD_S SEED COUNT OTHER,OTHER`: it takes the lease of its run and prints
"holding"; after a line on standard input it publishes and collects, prints what it did as JSON, and waits for another.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time

from regraft.cli.gc import _DAY_S, _unfinished
from regraft.errors import LeaseHeld
from regraft.store import manifest as manifests
from regraft.store.checkpoints import Checkpoints, Retention
from regraft.store.lease import Lease, holder
from regraft.store.objects import ObjectStore, open_store
from regraft.store.registry import Registry

MODEL = "m"
JUMP_S = 100 * 3600.0
_now = time.time


class SkewedClock:
    """This process's clock: ahead by so much, and now and then by a hundred hours more or less."""

    def __init__(self, ahead_s: float, rng: random.Random) -> None:
        self._ahead_s, self._rng, self._jump_s = ahead_s, rng, 0.0
        time.time = lambda: _now() + self._ahead_s + self._jump_s

    def jump(self) -> None:
        """Choose another jump."""
        self._jump_s = self._rng.choice((0.0, 0.0, JUMP_S, -JUMP_S))


def run_of(host: str) -> str:
    """Return the run that a host drives."""
    return f"run-{host}"


def content_of(host: str, number: int) -> bytes:
    """Return what a host publishes."""
    return f"{host} {number}".encode()


def work(store: ObjectStore, host: str, clock: SkewedClock, *, count: int, others: list[str]) -> dict[str, bytes]:
    """Publish and save, and try to take what others hold; return the content of each published version."""
    registry, checkpoints = Registry(store), Checkpoints(store, run_of(host))
    published = {}
    for number in range(count):
        clock.jump()
        content = content_of(host, number)
        version = registry.publish(MODEL, {"a": b"1", "b": content}, {"delta_sha256": f"{host}-{number}"})
        assert manifests.read_verified(store, version.prefix, "b", version.manifest) == content
        published[f"v{version.number}"] = content
        saved = checkpoints.save(number, {"delta": content}, {"metrics": {"x": 0.5}})
        checkpoints.retain(Retention(last=2))
        assert saved.id in {one.id for one in checkpoints.listed()}
        clock.jump()
        for other in others:
            assert holder(store, run_of(other)) is not None
            try:
                Lease(store, run_of(other)).acquire()
            except LeaseHeld:
                continue
            raise AssertionError(f"{host} took the lease of {other}")
    return published


def collecting(store: ObjectStore, end: threading.Event) -> threading.Thread:
    """Do what `regraft gc` does in another thread; in a bucket twice a second, else without a pause."""
    pause_s = 0.5 if store.url.startswith("s3://") else 0.02

    def collect() -> None:
        while not end.wait(pause_s):
            _unfinished(store, [stat.key for stat in store.list()])
            store.sweep(_DAY_S)

    thread = threading.Thread(target=collect)
    thread.start()
    return thread


def main(url: str, host: str, ahead_s: str, seed: str, count: str, others: str) -> None:
    """Be one host."""
    socket.gethostname = lambda: host
    clock = SkewedClock(float(ahead_s), random.Random(f"{seed} {host}"))
    store, end = open_store(url), threading.Event()
    with Lease(store, run_of(host), heartbeat_s=0.2) as lease:
        print("holding", flush=True)
        sys.stdin.readline()
        collector = collecting(open_store(url), end)
        try:
            published = work(store, host, clock, count=int(count), others=others.split(","))
        finally:
            end.set()
            collector.join()
        print(json.dumps({version: content.decode() for version, content in published.items()}), flush=True)
        sys.stdin.readline()
        assert not lease.lost.is_set()


if __name__ == "__main__":
    main(*sys.argv[1:])
