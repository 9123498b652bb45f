"""A process that makes pictures and sends them to an endpoint, so that others are not delayed by their making.

python -m support.picture_sender URL SEED KIND

It reads commands from its standard input, a line each: `make N` makes N pictures and answers `made`; `send RATE` sends
them at RATE a second, or slower where answers take longer, and answers with a JSON list of what came back for each.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from urllib.parse import urlsplit

from support.costly_pictures import GENERATED, ordinary

MAKERS = {"generated": GENERATED, "ordinary": (ordinary,)}


def post(url: str, body: bytes, timeout: float = 60) -> int:
    """Send one picture; return the status, 413 where the connection closed before a long body was read, and 0 else."""
    parts = urlsplit(url)
    line = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=timeout)
    try:
        line.request("POST", parts.path, body, {"content-type": "image/*"})
        answer = line.getresponse()
        answer.read()
        return answer.status
    except (BrokenPipeError, ConnectionResetError):
        return 413 if len(body) > 1 << 20 else 0
    finally:
        line.close()


def main(url: str, seed: str, kind: str) -> None:
    """Obey the commands until the input ends."""
    draw = random.Random(seed)
    made: list[tuple[str, bytes]] = []
    for command in sys.stdin:
        what, number = command.split()
        if what == "make":
            makers = [draw.choice(MAKERS[kind]) for _ in range(int(number))]
            made = [(make.__name__, make(draw)) for make in makers]
            print("made", flush=True)
        else:
            print(json.dumps(sent(url, made, float(number))), flush=True)


def sent(url: str, made: list[tuple[str, bytes]], rate: float) -> list[tuple[str, str, int, float]]:
    """Send the pictures in turn to the models of all tasks; return what came back."""
    paths, found, began = ("image-classification", "object-detection", "semantic-segmentation"), [], time.monotonic()
    for number, (name, body) in enumerate(made):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        started, path = time.monotonic(), paths[number % 3]
        status = post(f"{url}/models/{path}", body)
        found.append((name, path, status, time.monotonic() - started))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
