"""Latency of an endpoint on Ray Serve during changes under a constant load, and after it had no replica.

python tests/benchmarks/changes.py
python tests/benchmarks/changes.py --only zero

MiniLM with a classification head. The load has a constant rate of requests, whether earlier ones were answered or
not. Each change lasts some seconds, and its p99 is compared with that of the steady load before it. No request may
fail. Then an endpoint that scales to zero is left idle until it has no replica, and gets a request. The seconds to its
first response are compared with those of a bare Ray Serve deployment that imports the same libraries.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

import ray
import record
from load import Reply, Target, free_port, percentile, session, up
from ray import serve
from ray.serve.config import AutoscalingConfig
from serve import NAME, mixed, model_folder

from regraft.cluster import serve as endpoint
from regraft.cluster.connect import start
from regraft.errors import ClusterError
from regraft.spec.serve import ServeSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry

SLOWER, LATER_S = 3.0, 2.0
"""Upper limits: p99 of a change over that of the steady load; seconds after the bare replica's first response."""
SCALING = {"min_replicas": 0, "max_replicas": 1, "down_seconds": 1, "up_seconds": 0}


def main() -> int:
    """Measure; return 1 if a goal is missed."""
    options = arguments()
    found: dict[str, Any] = {"reached": {}}
    with model_folder() as (folder, _):
        again(folder)
        start("local", verbose=False)
        if options.only in ("", "changes"):
            found["changes"] = changed(folder, options)
            found["reached"] |= {
                f"p99 {name}": one["p99_ms"] <= SLOWER * found["changes"]["steady"]["p99_ms"]
                for name, one in found["changes"].items()
            }
            found["reached"]["none failed"] = not sum(one["failed"] for one in found["changes"].values())
        if options.only in ("", "zero"):
            found["zero"] = from_zero(folder, options)
            found["reached"]["from zero"] = found["zero"]["later_s"] <= LATER_S
    for name, one in found.get("changes", {}).items():
        print(f"{name:18} p50 {one['p50_ms']:7.1f} ms  p99 {one['p99_ms']:7.1f} ms  of {one['requests']}")
    print(found["reached"])
    record.write("changes" + (f"-{options.only}" if options.only else ""), found, options.results)
    return 0 if all(found["reached"].values()) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (default: 20)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each change at least (default: 10)")
    parser.add_argument("--starts", type=int, default=3, help="starts from no replica (default: 3)")
    parser.add_argument("--only", choices=("", "changes", "zero"), default="")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def again(folder: Path) -> None:
    """Publish the model as a second version; its lineage names another run, because a run registers only once."""
    registry = Registry(open_store(f"{folder}/store"))
    first = registry.version(NAME)
    with tempfile.TemporaryDirectory() as scratch:
        there = registry.fetch(first, Path(scratch))
        files = {str(path.relative_to(there)): path for path in there.rglob("*") if path.is_file()}
        registry.publish(NAME, files, {**first.meta, "lineage": {**first.meta["lineage"], "run": "another"}})


def spec_of(folder: Path, port: int, **more: Any) -> ServeSpec:
    document = {
        "store": f"{folder}/store",
        "models": [NAME, "*"],
        "port": port,
        "device": "cpu",
        "replica": {"cpus": 0.5, "gpus": 0},
        "refresh_seconds": 0.5,
        **more,
    }
    return ServeSpec.resolve(document)


class Load:
    """Send a request at fixed intervals, in a thread."""

    def __init__(self, target: Target, texts: Sequence[str], rate: float) -> None:
        self.target, self.texts, self.pause = target, texts, 1 / rate
        self.replies: list[Reply] = []
        self._done = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    async def _run(self) -> None:
        began, number, open_ones = time.monotonic(), 0, set()

        async def one(text: str) -> None:
            self.replies.append(await self.target.ask(line, text))

        async with session(256) as line:
            while not self._done.is_set():
                await asyncio.sleep(max(0.0, began + number * self.pause - time.monotonic()))
                open_ones.add(task := asyncio.create_task(one(self.texts[number % len(self.texts)])))
                task.add_done_callback(open_ones.discard)
                number += 1
            await asyncio.gather(*open_ones)

    def between(self, since: float, until: float) -> dict[str, Any]:
        replies = [reply for reply in self.replies if since <= reply.at < until]
        return {
            "requests": len(replies),
            "failed": sum(reply.status != 200 for reply in replies),
            "p50_ms": percentile(replies, 0.5),
            "p99_ms": percentile(replies, 0.99),
            "slowest_ms": round(1000 * max(reply.seconds for reply in replies), 1),
        }


def changed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make each change under the load."""
    port, registry = free_port(), Registry(open_store(f"{folder}/store"))
    registry.promote(NAME, "v1", "production")
    target = Target(f"http://127.0.0.1:{port}", f"/models/{NAME}@production")
    load = Load(target, [text for text in mixed(400) if len(text.split()) <= 40], options.rate)
    tuned = {"limits": {"queue": 100}}

    def failing() -> None:
        try:
            endpoint.deploy(spec_of(folder, port, models=[f"{NAME}@v9"]))
        except ClusterError:
            return
        raise AssertionError("a version that is not there was deployed")

    changes: dict[str, Callable[[], Any]] = {
        "steady": lambda: None,
        "promote": lambda: registry.promote(NAME, "v2", "production"),
        "rollback": lambda: registry.rollback(NAME, "production"),
        "add": lambda: registry.publish("other", *copied(registry)),
        "remove": lambda: registry.delete("other", "v1"),
        "redeploy": lambda: endpoint.deploy(spec_of(folder, port, **tuned)),
        "scale to two": lambda: scaled(spec_of(folder, port, **tuned, scaling={"min_replicas": 2, "max_replicas": 2})),
        "scale to one": lambda: scaled(spec_of(folder, port, **tuned)),
        "failing version": failing,
    }
    marks = []
    with endpoint.serving(spec_of(folder, port)):
        while not up(target.url + target.path):
            time.sleep(0.1)
        with load.running():
            time.sleep(3)
            for name, change in changes.items():
                began = time.monotonic()
                change()
                time.sleep(max(0.0, began + options.seconds - time.monotonic()))
                marks.append((name, began, time.monotonic()))
                print(f"{name}: {marks[-1][2] - began:.1f} s", flush=True)
    return {name: load.between(since, until) for name, since, until in marks}


def copied(registry: Registry) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Publish another model of the same base."""
    first = registry.version(NAME)
    with tempfile.TemporaryDirectory() as scratch:
        there = registry.fetch(first, Path(scratch))
        files = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
    return files, dict(first.meta)


def scaled(spec: ServeSpec) -> None:
    """Deploy, and wait for exactly the requested replicas."""
    endpoint.deploy(spec)
    while states("endpoint", endpoint.NAME) != {"RUNNING": spec.scaling.max_replicas}:
        time.sleep(0.1)


def states(deployment: str, application: str) -> dict[str, int]:
    found = serve.status().applications[application].deployments[deployment].replica_states
    return {str(getattr(name, "value", name)): count for name, count in found.items()}


class Bare:
    """Imports the modules of an endpoint, and answers."""

    def __init__(self) -> None:
        import transformers

        import regraft.endpoint.server  # noqa: F401

        self.auto = transformers.AutoModel

    async def __call__(self, request: Any) -> Any:
        return [{"label": "positive", "score": 1.0}]


def from_zero(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds from first request to response without a replica, in turns with a bare deployment."""
    port, spent = free_port(), {"regraft": list[float](), "bare": list[float]()}
    with endpoint.serving(spec_of(folder, port, scaling=SCALING)):
        bare = serve.deployment(
            Bare,
            name="bare",
            ray_actor_options={"num_cpus": 0.5},
            autoscaling_config=AutoscalingConfig(
                min_replicas=0, initial_replicas=1, max_replicas=1, upscale_delay_s=0, downscale_delay_s=1,
                look_back_period_s=2.0, target_ongoing_requests=16,
            ),
        )  # fmt: skip
        serve.run(bare.bind(), name="bare", route_prefix="/bare")
        sides = {"regraft": (f"/models/{NAME}", "endpoint", endpoint.NAME), "bare": ("/bare", "bare", "bare")}
        for number in range(options.starts):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                path, deployment, application = sides[name]
                while any(states(*one[1:]) for one in sides.values()):
                    time.sleep(0.2)
                time.sleep(1)
                began = time.monotonic()
                assert up(f"http://127.0.0.1:{port}{path}"), (name, deployment, application)
                spent[name].append(round(time.monotonic() - began, 2))
                print(f"start {number + 1}, {name}: {spent[name][-1]:.1f} s", flush=True)
        serve.delete("bare")
    ours, theirs = (statistics.median(spent[name]) for name in ("regraft", "bare"))
    return {"seconds": spent, "later_s": round(ours - theirs, 2)}


if __name__ == "__main__":
    code = main()
    ray.shutdown()
    sys.exit(code)
