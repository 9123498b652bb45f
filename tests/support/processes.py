"""Processes for tests that kill them or need several ranks, forked from one server that has loaded torch."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from regraft.cli import main
from regraft.errors import Interrupted, Stopped
from regraft.spec.run import RunSpec
from regraft.training import session
from regraft.training.harness import LocalHarness
from regraft.training.job import Job
from regraft.training.loop import fit
from regraft.training.registration import Outcome
from regraft.training.session import complete, run_session, train_local
from regraft.training.stages import after_stages
from regraft.tuning.driver.local_worker import search_here
from regraft.tuning.worker.context import TrialHarness
from support.paths import PLATFORM, ROOT
from support.peak_memory import peak

# The server finds preloaded modules only by PYTHONPATH; without it every child would import torch again.
_roots = [str(ROOT / "tests"), str(PLATFORM)]
os.environ["PYTHONPATH"] = os.pathsep.join([*_roots, *filter(None, [os.environ.get("PYTHONPATH")])])
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["support.processes", "support.tiny"])

LEFT = 7
"""The exit code of a child whose run was stopped."""


class CountingHarness(LocalHarness):
    """Records the rows of each step, and can be killed right after a step."""

    def __init__(self, row_log: Path, *, kill_after: int | None = None) -> None:
        super().__init__(device=torch.device("cpu"))
        self._row_log, self._kill_after = row_log, kill_after
        self._attempt = os.getpid()

    def consumed(self, step: int, rows: np.ndarray) -> None:
        if self.first:
            with self._row_log.open("a") as file:
                file.write(f"{self._attempt} {step} {' '.join(map(str, rows.tolist()))}\n")
        if step == self._kill_after:
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(function: Callable[..., None], *arguments: Any, timeout: float = 120) -> int:
    """Run a function in a new process with this environment; return its exit code (-9 if it was killed)."""
    process = _context.Process(target=_in_environment, args=(dict(os.environ), function, *arguments))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{function.__name__} did not end in {timeout} s")
    assert process.exitcode is not None
    return process.exitcode


def _in_environment(environment: Mapping[str, str], function: Callable[..., None], *arguments: Any) -> None:
    """Set the test's environment: a forked child has the environment in which the fork server was started."""
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def train_counted(document: Mapping[str, Any], row_log: str, kill_after: int | None = None) -> None:
    """Train a spec in this process, from its newest checkpoint."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with run_session(RunSpec.resolve(document)) as prepared:
        if not isinstance(prepared, Outcome):
            fit(prepared.job, CountingHarness(Path(row_log), kill_after=kill_after))
            complete(prepared)


def train_chain(written: Mapping[str, Any], row_log: str, killed: str = "") -> None:
    """Train a spec and its stages in this process, which kills itself in the second step of the run named `killed`."""
    os.environ["HF_HUB_OFFLINE"] = "1"

    def train(spec: RunSpec) -> Outcome:
        with run_session(spec) as prepared:
            if isinstance(prepared, Outcome):
                return prepared
            fit(prepared.job, CountingHarness(Path(row_log), kill_after=1 if spec.name == killed else None))
            return complete(prepared)

    train(after_stages(RunSpec.resolve(written), train, None))


class StopsItself(CountingHarness):
    """Stops after a step: the process by SIGTERM, or one of several ranks by its stop notice."""

    step = 5

    def consumed(self, step: int, rows: np.ndarray) -> None:
        super().consumed(step, rows)
        if step == self.step and self.world == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == self.step and self.rank == self.world - 1:
            self.notice.give("the test asked for it")


def train_stopping(written: Mapping[str, Any], row_log: str) -> None:
    """Train a spec in this process, which stops itself; exit with the code LEFT if the run was stopped."""
    session.LocalHarness = lambda progress=None: StopsItself(Path(row_log))  # type: ignore[misc, assignment]
    try:
        session.train_local(RunSpec.resolve(written))
    except Stopped:
        sys.exit(LEFT)


def limited_command(argv: list[str], stderr_file: str, largest: int) -> None:
    """Run the command line with a limit on the size of files; its stderr goes into the file `stderr_file`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    with open(stderr_file, "w") as file, redirect_stderr(file):
        code = main(argv)
    sys.exit(code)


def train_plain(document: Mapping[str, Any]) -> None:
    """Train a spec in this process."""
    train_local(RunSpec.resolve(document))


def on_ranks(
    world: int, document: Mapping[str, Any], row_log: str, harness: type[CountingHarness] = CountingHarness
) -> None:
    """Train a spec on several gloo ranks, each a process, without Ray."""
    port = free_port()
    with run_session(RunSpec.resolve(document)) as prepared:
        if isinstance(prepared, Outcome):
            return
        arguments = (world, port, prepared.job, row_log, harness)
        ranks = [_context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        assert [process.exitcode for process in ranks] == [0] * world
        complete(prepared)


def rank_main(rank: int, world: int, port: int, job: Job, row_log: str, harness: type[CountingHarness]) -> None:
    """Run one rank of `on_ranks`."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        fit(job, harness(Path(row_log)))
    finally:
        dist.destroy_process_group()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def train_and_weigh(written: Mapping[str, Any], out: str) -> None:
    """Train in this process and write its peak memory in bytes to a file."""
    train_local(RunSpec.resolve(written))
    Path(out).write_text(str(peak()))


def search_and_weigh(written: Mapping[str, Any], out: str) -> None:
    """Search in this process and write its peak memory in bytes to a file."""
    search_here(RunSpec.resolve(written))
    Path(out).write_text(str(peak()))


def train_interruptible(written: Mapping[str, Any], row_log: str) -> None:
    """Train a spec as the leader of a process group, as a terminal's command is; exit with the command's code."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session.LocalHarness = lambda progress=None: CountingHarness(Path(row_log))  # type: ignore[misc, assignment]
    try:
        session.train_local(RunSpec.resolve(written))
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def search_counted(written: Mapping[str, Any], row_log: str) -> None:
    """Search a spec in this process as the leader of a process group; record the step numbers of all trials."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def consumed(harness: TrialHarness, step: int, rows: np.ndarray) -> None:
        harness.pulse.beat()
        with open(row_log, "a") as file:
            file.write(f"{os.getpid()} {step}\n")

    TrialHarness.consumed = consumed  # type: ignore[method-assign]
    try:
        search_here(RunSpec.resolve(written))
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


def interrupted_child(
    written: Mapping[str, Any],
    row_log: Path,
    *,
    steps: int,
    then: float,
    times: int = 1,
    number: int = signal.SIGINT,
    function: Callable[..., None] = train_interruptible,
) -> int:
    """Train in a child, send Ctrl-C to its group some seconds after a number of steps; return its exit code."""
    arguments = (dict(os.environ), function, written, str(row_log))
    process = _context.Process(target=_in_environment, args=arguments)
    process.start()
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline and _lines(row_log) < steps:
        time.sleep(0.001)
    time.sleep(then)
    for _ in range(times):
        if process.is_alive() and process.pid is not None:
            os.killpg(process.pid, number)
            time.sleep(0.01)
    process.join(120)
    if process.is_alive():
        process.kill()
        raise TimeoutError("the interrupted child did not end")
    assert process.exitcode is not None
    return process.exitcode


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0
