"""Ray nodes as processes of this machine: a head without work, and workers that come, are drained and die."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from workers import free_port

BIN = Path(sys.executable).parent
TOKEN = "a-token-for-these-tests-only-0123456789"
PATIENCE_S = 240.0
HERE = Path(__file__).parent


def until(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until something is so, and give it back."""
    end = time.monotonic() + patience_s
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.2)
    return found


def settings(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a cluster's nodes and drivers: a token, and nothing that this process set up for itself."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_health_check_failure_threshold": "40",  # a busy machine is not a dead one
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "platform")]),
        "REGRAFT_CACHE": str(folder / "cache"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        **more,
    }


class Machines:
    """`with Machines() as machines`: a head without CPUs; `machines.bring_to(4)`, `kill` and `drain` change the others.

    All is below one process group and one temporary folder, with a token and on free ports: nothing that others run on
    this machine is touched.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rgn", dir="/tmp"))  # short: a socket's path has at most 107 bytes
        self.environment = settings(self.folder)
        self.nodes: list[str] = []

    def __enter__(self) -> Self:
        command = [sys.executable, str(HERE / "keeper.py"), str(free_port()), str(self.folder)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (self.folder / "keeper.log").open("w") as log:
            self._keeper = subprocess.Popen(command, env=self.environment, start_new_session=True, stderr=log, **pipes)
        self.address: str = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        end(self._keeper)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self) -> Any:
        while True:
            line = self._keeper.stdout.readline()
            assert line, (self.folder / "keeper.log").read_text()[-3000:]
            with contextlib.suppress(ValueError):  # Ray writes to standard output, too
                return json.loads(line)

    def tell(self, do: str, **order: Any) -> Any:
        """Have something done, or answered."""
        self._keeper.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._keeper.stdin.flush()
        answer = self._answer()
        assert "ok" in answer, answer
        return answer["ok"]

    def kill(self, node: str) -> None:
        """The machine is gone from one moment to the next."""
        self.nodes.remove(node)
        self.tell("kill", node=node)

    def drain(self, node: str, seconds: int = 300) -> None:
        """The machine will be taken away."""
        assert self.tell("drain", node=node, seconds=seconds)

    def bring_to(self, count: int, cpus: int = 1) -> list[str]:
        """Exactly so many nodes beside the head; new ones get so many CPUs."""

        def there() -> bool:
            living = self.tell("living")
            for node in list(self.nodes):
                if node not in living or len(self.nodes) > count:
                    self.kill(node)
            if len(self.nodes) < count:
                self.nodes += self.tell("add", cpus=cpus, count=count - len(self.nodes))
            return set(self.nodes) <= set(self.tell("living"))

        until(there, f"{count} nodes are there")
        return self.nodes


def end(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started: there is nothing that it would have to put in order."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
