"""Processes of a Ray that was started here end with the command, at any moment of its start; no others do."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import ray

from regraft.cluster.own_processes import OwnProcesses

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-Sc', 'import time; time.sleep(100)'])"
"""A process with another below it, as a raylet has its agents."""


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    if ray.is_initialized():
        pytest.skip("Ray runs in this process")
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, *words: str) -> psutil.Process:
    """Start a process with another below it; `words` are in its command line."""
    process = psutil.Process(stack.enter_context(subprocess.Popen([sys.executable, "-Sc", PARENT, *words])).pid)
    stack.callback(end, process)
    while not process.children():
        time.sleep(0.01)
    return process


def end(process: psutil.Process) -> None:
    """End a process and those below it, if they still run."""
    with suppress(psutil.Error):
        for one in (*process.children(), process):
            one.kill()


def test_a_start_that_was_interrupted_leaves_nothing_and_others_stay(running: ExitStack) -> None:
    of_ray = str(Path(ray.__file__).parent / "core")
    before = started(running, of_ray)
    own = OwnProcesses()
    raylet, other = started(running, of_ray), started(running, "another program")
    agent = raylet.children()[0]
    own.end()
    own.end()
    _, left = psutil.wait_procs([raylet, agent], timeout=10)
    assert not left
    assert all(one.is_running() and one.children() for one in (before, other))
