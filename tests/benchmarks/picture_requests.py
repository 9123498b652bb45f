"""Compare requests a second for ordinary pictures with those of another checkout: photos, drawings and thumbnails.

python tests/benchmarks/picture_requests.py ../other-checkout
python tests/benchmarks/picture_requests.py ../other-checkout --seconds 3 --pairs 1

The model is so small that reading a picture is what takes the time. Both sides train it from the same base and rows and
must give the same answers. The server runs on one core and the senders on another, in the order A B B A ...
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil
import record
from load import cores, free_port, served, worked
from PIL import Image

from support.costly_pictures import noise, ordinary, saved
from support.image_bases import coloured, tiny_resnet

GOAL = 1.05
PATH = "/models/pictures"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load in each turn and for each kind")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def kinds() -> dict[str, list[bytes]]:
    """Return pictures that people send."""
    drawings = [noise((40, 30), Random(n)).resize((900, 700), Image.Resampling.NEAREST) for n in range(4)]
    return {
        "photo, JPEG, 2 megapixels": [ordinary(Random(number)) for number in range(4)],
        "drawing, PNG, 900 x 700": [saved(drawing, "PNG") for drawing in drawings],
        "thumbnail, PNG, 64 x 64": [saved(noise((64, 64), Random(number)), "PNG") for number in range(4)],
    }


def environment(checkout: Path, folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(checkout / "platform"), str(checkout / "tests")])
    return {"PYTHONPATH": paths, "REGRAFT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def trained(checkout: Path, folder: Path, data: Path) -> None:
    """Train the model with a checkout's code."""
    spec = {
        "name": "pictures", "base": str(data / "base"), "task": "image-classification", "method": "feature-extraction",
        "data": {"train": str(data / "train"), "eval": str(data / "eval")}, "store": str(folder / "store"),
        "training": {"epochs": 2, "batch_size": 6, "lr": 0.05}, "compute": {"workers": 0, "cpus": 1},
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "regraft", "train", str(folder / "run.yaml")]
    subprocess.run(command, env={**os.environ, **environment(checkout, folder)}, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def running(checkout: Path, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a checkout's endpoint on its core; yields its URL and process."""
    port = free_port()
    (folder / "serve.yaml").write_text(json.dumps({"store": str(folder / "store"), "port": port, "device": "cpu"}))
    command = [sys.executable, "-m", "regraft", "serve", str(folder / "serve.yaml"), "--replicas", "0"]
    url = f"http://127.0.0.1:{port}"
    with served(command, url + "/readyz", folder / "serve.log", environment(checkout, folder)) as process:
        yield url, process


def ask(line: http.client.HTTPConnection, body: bytes) -> Any:
    line.request("POST", PATH, body, {"content-type": "image/*"})
    answer = line.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return json.loads(content)


def load(url: str, bodies: list[bytes], seconds: float, connections: int) -> int:
    """Send pictures over several connections for a while; return how many were answered."""
    counts, until = [0] * connections, time.monotonic() + seconds

    def send(number: int) -> None:
        line = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port or 80)
        while time.monotonic() < until:
            ask(line, bodies[(counts[number] + number) % len(bodies)])
            counts[number] += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def main() -> int:
    """Time both sides; 1 when one kind of pictures takes longer than the goal allows."""
    options, pictures = arguments(), kinds()
    sides = {"here": record.ROOT, "there": options.other.resolve()}
    spent: dict[str, dict[str, list[float]]] = {kind: {side: [] for side in sides} for kind in pictures}
    answers: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="regraft-benchmark-") as name:
        data = Path(name)
        tiny_resnet(data / "base")
        for seed, side in enumerate(("train", "eval")):
            coloured(data / side, each=6, seed=seed)
        for side, checkout in sides.items():
            (data / side).mkdir()
            trained(checkout, data / side, data)
        os.sched_setaffinity(0, cores()[1])
        for number in range(options.pairs):
            for side in sides if number % 2 == 0 else reversed(sides):
                with running(sides[side], data / side) as (url, process):
                    line = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port or 80)
                    answers[side] = [ask(line, body) for bodies in pictures.values() for body in bodies]
                    for kind, bodies in pictures.items():
                        before = worked(process)
                        count = load(url, bodies, options.seconds, options.connections)
                        spent[kind][side].append(1000 * (worked(process) - before) / count)
                        print(f"{side}, {kind}: {count / options.seconds:.1f} a second, "
                              f"{spent[kind][side][-1]:.2f} ms of CPU each", flush=True)  # fmt: skip
    compared(answers)
    found = {kind: figures(turns) for kind, turns in spent.items()}
    record.write("picture-requests", {"goal": GOAL, "kinds": found}, options.results)
    return 0 if all(one["ratio"] <= GOAL for one in found.values()) else 1


def compared(answers: Mapping[str, list[Any]]) -> None:
    """Both sides must give the same scores."""
    for ours, theirs in zip(answers["here"], answers["there"], strict=True):
        scores = [{one["label"]: one["score"] for one in answer} for answer in (ours, theirs)]
        assert all(abs(scores[0][label] - scores[1][label]) < 1e-4 for label in scores[0]), scores


def figures(turns: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the medians of the CPU time of a request, and their ratio."""
    here, there = median(turns["here"]), median(turns["there"])
    return {"here_ms": round(here, 2), "there_ms": round(there, 2), "ratio": round(here / there, 3)}


if __name__ == "__main__":
    sys.exit(main())
