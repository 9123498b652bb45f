"""An endpoint under ten times the load that it can answer, for 20 seconds.

python tests/benchmarks/overload.py
python tests/benchmarks/overload.py --seconds 3 --connections 8 --without-ray     # a quick check

First the capacity is measured with as many clients as keep the endpoint busy. Then come ten times as many: clients that
respect `Retry-After`, and clients that retry at once. Then there are as few as before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import record
from load import Reply, Target, closed, cores, family, free_port, memory, percentile, rate, served, session
from serve import NAME, mixed, model_folder

TIMES = 10
GROWTH_MB, REFUSED_P95_MS, AGAIN_S = 50, 50, 5.0
GOODPUT = {"patient": 0.8, "impatient": 0.6}
QUEUE = 64


def main() -> int:
    """Measure; return 1 if a goal is missed."""
    options = arguments()
    found: dict[str, Any] = {"reached": {}}
    with model_folder() as (folder, _):
        texts = mixed(1000)
        for manner in GOODPUT:
            found[manner] = stormed(folder, texts, manner, options)
            goals = {
                "goodput": found[manner]["goodput"] >= GOODPUT[manner],
                "memory": found[manner]["memory_growth_mb"] < GROWTH_MB,
                "refused_p95": found[manner]["refused_p95_ms"] < REFUSED_P95_MS,
                "only_503_with_retry_after": found[manner]["others"] == 0,
                "normal_again": found[manner]["normal_after_s"] <= AGAIN_S,
            }
            found["reached"] |= {f"{manner} {name}": value for name, value in goals.items()}
            print(manner, found[manner], flush=True)
    record.write("overload" + ("-haproxy" if options.haproxy else ""), found, options.results)
    return 0 if all(found["reached"].values()) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=32, help="that keep the server busy")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--haproxy", action="store_true", help="before the replica, in place of Ray Serve's own proxy")
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    return parser.parse_args()


def stormed(folder: Path, texts: Sequence[str], manner: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one server before, during and after the overload."""
    port = free_port()
    spec = folder / "SERVE.yaml"
    proxy = "haproxy" if options.haproxy else "python"
    spec.write_text(
        f"models: [{NAME}]\nstore: {folder}/store\nport: {port}\nproxy: {proxy}\nlimits: {{queue: {QUEUE}}}\n"
        f"open_to_all: {str(options.haproxy).lower()}  # haproxy requires keys\n"
    )
    command = [sys.executable, "-m", "regraft", "serve", str(spec)]
    command += ["--replicas", "0"] if options.without_ray else []
    target = Target(f"http://127.0.0.1:{port}", f"/models/{NAME}")
    with served(command, target.url + target.path, folder / "serve.log", {"OMP_NUM_THREADS": "1"}) as process:
        os.sched_setaffinity(0, cores()[1])
        asyncio.run(closed(target, texts, options.connections, 3))  # warm
        calm = asyncio.run(closed(target, texts, options.connections, options.seconds / 2))
        before = memory(family(process))
        storm, peak = asyncio.run(storm_of(target, texts, manner, options, process))
        ended = time.monotonic()
        after = asyncio.run(closed(target, texts, options.connections, AGAIN_S + 5))
    return figures(calm, storm, after, ended) | {"memory_growth_mb": round(peak - before, 1)}


async def storm_of(
    target: Target, texts: Sequence[str], manner: str, options: argparse.Namespace, process: psutil.Process
) -> tuple[list[Reply], float]:
    """Run ten times as many clients; return their requests and the server's peak memory."""
    until = time.monotonic() + options.seconds
    count = TIMES * options.connections
    replies: list[Reply] = []
    those = family(process)
    peak = memory(those)

    async def client(number: int, line: Any) -> None:
        place, draw = number, random.Random(number)
        await asyncio.sleep(draw.random())  # started together they would wait for each other in this process
        while time.monotonic() < until:
            reply = await target.ask(line, texts[place % len(texts)])
            replies.append(reply)
            if reply.status == 200:
                place += count
            elif manner == "patient":
                await asyncio.sleep((reply.retry_after or 1.0) * (1 + draw.random()))

    async with session(count) as line:
        clients = asyncio.gather(*(client(number, line) for number in range(count)))
        while not clients.done():
            peak = max(peak, memory(those))
            await asyncio.wait([clients], timeout=1.0)
        await clients
    return replies, max(peak, memory(family(process)))


def figures(calm: list[Reply], storm: list[Reply], after: list[Reply], ended: float) -> dict[str, Any]:
    """Return the results; `normal_after_s`: when requests last took 1.5 times as long as nearly all did before."""
    capacity = rate(calm)
    refused = [reply for reply in storm if reply.status == 503]
    usual = percentile(calm, 0.99)
    slow = [reply.at - ended for reply in after if reply.status != 200 or 1000 * reply.seconds > 1.5 * usual]
    return {
        "capacity_a_second": round(capacity, 1),
        "asked_a_second": round(len(storm) / (max(reply.at for reply in storm) - min(reply.at for reply in storm)), 1),
        "goodput": round(rate(storm) / capacity, 3),
        "calm_p99_ms": usual,
        "accepted_p99_ms": percentile(storm, 0.99),
        "refused": len(refused),
        "refused_p95_ms": percentile(storm, 0.95, status=503),
        "others": sum(reply.status != 200 and not (reply.status == 503 and reply.retry_after) for reply in storm),
        "normal_after_s": round(max(slow, default=0.0), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
