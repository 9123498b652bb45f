"""The command line as a terminal runs it: the leader of a process group, all of which Ctrl-C interrupts.

A plugin loss makes every step slow and logs it, in whatever process it is taken.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from regraft.store.objects import open_store
from support.paths import PLATFORM

NAP_S = 0.2
"""Seconds that each step takes at least, so that a moment can be chosen between two."""
PACED = '''
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from regraft.cluster.ray_harness import RayHarness
from regraft.contracts import Loss
from regraft.tuning.worker.context import TrialHarness

HERE = Path("FOLDER")  # not this file's: it may be a copy that travelled with a job


def logged(harness, step, rows):
    """Log a step, wait, and hang where that is asked for."""
    harness.pulse.beat()
    if harness.first:
        with (HERE / "steps").open("a") as file:
            file.write(f"{os.getpid()} {step}\\n")
    time.sleep(float((HERE / "nap").read_text()))
    hang = HERE / "hang"
    if hang.exists() and len((HERE / "steps").read_text().splitlines()) > int(hang.read_text().split()[1]):
        way = hang.read_text().split()[0]
        (HERE / "hung").write_text(str(os.getpid()))
        if way == "frozen":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(10**6)


RayHarness.consumed = TrialHarness.consumed = logged


class Nothing(nn.Module):
    def forward(self, step):
        return torch.zeros(())


class Paced(Loss):
    """Takes its time."""

    def build(self, model, anatomy):
        return Nothing()
'''


def paced(folder: Path, written: Mapping[str, Any], *, nap: float = NAP_S) -> dict[str, Any]:
    """Return the spec with slow, logged steps, and a store of its own; also written as `spec.yaml` of the folder."""
    (folder / "mine" / "losses").mkdir(parents=True, exist_ok=True)
    # A process knows one plugin of a name: in-process tests need a name for each folder.
    name = "paced_" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    (folder / "mine" / "losses" / f"{name}.py").write_text(PACED.replace("FOLDER", str(folder / "mine")))
    (folder / "mine" / "nap").write_text(str(nap))
    losses = {"plugins": [str(folder / "mine")], "losses": [name.replace("_", "-")]}
    made = {**written, **losses, "store": str(folder / "store")}
    (folder / "spec.yaml").write_text(yaml.safe_dump(made))
    return made


def hang_after(folder: Path, steps: int, *, way: str = "asleep") -> None:
    """Make a worker hang after so many steps of all trials: `asleep`, or `frozen` with all its threads."""
    (folder / "mine" / "hang").write_text(f"{way} {steps}")


def hung_process(folder: Path) -> int:
    """Return the id of the process that hangs, or hung."""
    return int((folder / "mine" / "hung").read_text())


def logged_steps(folder: Path) -> list[int]:
    """Return the numbers of the steps that were taken, over all processes."""
    path = folder / "mine" / "steps"
    return [int(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


def only_name(store: str, kind: str = "runs") -> str:
    """Return the name of the only run, or search, of a store: it depends on the folder in which the command ran."""
    (name,) = {stat.key.split("/")[1] for stat in open_store(store).list(f"{kind}/")}
    return name


class RunningCommand:
    """A command of this tree in a session of its own; its output goes into files of the folder."""

    def __init__(self, folder: Path, *words: str, code: str = "", **variables: str) -> None:
        """`code` is Python code to run before the command line begins."""
        start = f"import sys\n{code}\nfrom regraft.cli import console\nsys.exit(console())"
        program = ["-c", start] if code else ["-m", "regraft"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
        environment |= {"PYTHONPATH": str(PLATFORM), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
        environment |= {"RAY_raylet_start_wait_time_s": "120", **variables}  # of a busy machine
        self._folder = folder
        self._out, self._err = (folder / "out.txt").open("w"), (folder / "err.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, *program, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def out(self) -> str:
        """Standard output so far."""
        return (self._folder / "out.txt").read_text()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self._folder / "err.txt").read_text()

    def steps_reach(self, steps: int, *, within_s: float = 240.0) -> None:
        """Wait until so many steps are logged, or the command has ended."""
        end = time.monotonic() + within_s
        while self.process.poll() is None and len(logged_steps(self._folder)) < steps:
            assert time.monotonic() < end, f"no step {steps} within {within_s:.0f} s\n{self.err[-3000:]}"
            time.sleep(0.01)

    def process_appears(self, beginning: str, *, within_s: float = 240.0) -> None:
        """Wait until a process of the session has a name or a command line that begins so, or the command has ended."""
        end = time.monotonic() + within_s
        while self.process.poll() is None:
            found = [(one.info["name"] or "", (one.info["cmdline"] or [""])[0]) for one in session_of(self.process.pid)]
            if any(name.startswith(beginning) or line.startswith(beginning) for name, line in found):
                return
            assert time.monotonic() < end, f"no process {beginning} within {within_s:.0f} s\n{self.err[-3000:]}"
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Send Ctrl-C to the whole group, if the command has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)

    def ended(self, *, within_s: float = 240.0) -> int:
        """Wait for the command's end and return its exit code; nothing of its session may be left."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"not ended within {within_s:.0f} s\n{self.out[-2000:]}\n{self.err[-3000:]}") from None
        left = self._left(10.0)
        self.end()
        assert not left, f"left-over processes: {left}"
        return code

    def end(self) -> None:
        """End all that is left of the session, and close the files."""
        for process in session_of(self.process.pid):
            process.kill()
        self.process.wait(30)
        self._out.close()
        self._err.close()

    def _left(self, patience_s: float) -> list[str]:
        end = time.monotonic() + patience_s
        while (found := session_of(self.process.pid)) and time.monotonic() < end:
            time.sleep(0.1)
        return [f"{one.pid} {one.info['name']} {' '.join(one.info['cmdline'] or [])[:80]}" for one in found]


def session_of(leader: int) -> list[psutil.Process]:
    """Return the processes of a session, without those that have ended."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        try:
            if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found
