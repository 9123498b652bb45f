"""Ray that dies under a command: the command says so in its own words, and goes on when it is given again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import regraft
from cluster.test_job_submit import head_of_a_cluster
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.training.session import train_local
from support.processes import free_port
from support.ray_nodes import Machines, until
from support.tiny import document
from unit.store.conftest import moto_endpoint as moto_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAYLET, GCS = "raylet", "gcs_server"
RAYS_WORDS = (
    "ray::",
    "core_worker",
    "raylet_client",
    "gcs_client",
    "*** ",
    "Check failed",
    "Traceback",
    "(raylet)",
    "HTTPConnection",
)
PATIENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}
NAP = '''
import os
import time
from pathlib import Path

import torch
from torch import nn

from regraft.contracts import Loss


class Term(nn.Module):
    def __init__(self, nap):
        super().__init__()
        self.nap = nap

    def forward(self, step):
        with Path(self.nap.log).open("a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(self.nap.seconds)
        return torch.zeros(())


class Nap(Loss):
    """Takes its time at each step, and logs it."""

    log: str = ""
    """A file that gets a line for each step."""
    seconds: float = 0.0

    def build(self, model, anatomy):
        return Term(self)
'''
READER = '''
import time
from pathlib import Path

from regraft.tasks.text_classification import TextClassification as Platform


class Slow(Platform):
    """Takes its time to read a row, and logs it."""

    log: str = ""
    seconds: float = 0.0

    def encode(self, row, context, *, train):
        if not train and self.log:
            with Path(self.log).open("a") as file:
                file.write("row\\n")
            time.sleep(self.seconds)
        return super().encode(row, context, train=train)
'''


def plugin(folder: Path, family: str, text: str) -> str:
    """Write a plugin below `folder`; return its key, which no other test has."""
    name = "slow_" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    (folder / "mine" / family).mkdir(parents=True, exist_ok=True)
    (folder / "mine" / family / f"{name}.py").write_text(text)
    return name.replace("_", "-")


def napping(folder: Path, seconds: float, **more: Any) -> dict[str, Any]:
    """A spec whose training takes so long for each step, on one Ray worker."""
    losses = [{"type": plugin(folder, "losses", NAP), "log": str(folder / "log"), "seconds": seconds}]
    written = {**document(folder, checkpoint_steps=2), "plugins": [str(folder / "mine")], "losses": losses}
    written |= {"compute": {"workers": 1, "cpus": 1, "trunk": "off"}, **more}
    (folder / "spec.yaml").write_text(yaml.safe_dump(written))
    return written


def logged(folder: Path) -> int:
    """Return the number of lines in a plugin's log."""
    path = folder / "log"
    return path.read_text().count("\n") if path.exists() else 0


@contextmanager
def command(folder: Path, *words: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a command of regraft with --json in a process group of its own; its output goes into files."""
    paths = os.pathsep.join([str(Path(regraft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**(environment or os.environ), "PYTHONPATH": paths, **PATIENT}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "regraft", *words, "--json"],
            stdout=out,
            stderr=err,
            text=True,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    started: list[psutil.Process] = []
    try:
        yield process
    finally:
        started += descendants(process)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(30)
        for one in started:
            with suppress(psutil.Error):
                one.kill()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the living processes below a command."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []


def killed(process: subprocess.Popen[str], victim: str) -> list[psutil.Process]:
    """Kill the raylet or the GCS of the command's own Ray; return all processes that were below the command."""
    found = descendants(process)
    (one,) = [one for one in found if named(one) == victim]
    one.send_signal(signal.SIGKILL)
    return found


def named(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def lost_words(folder: Path, process: subprocess.Popen[str], below: list[psutil.Process]) -> str:
    """Check how a command ends whose Ray was killed a moment ago, and return its message."""
    began = time.monotonic()
    assert process.wait(60) == 1, (folder / "err").read_text()
    assert time.monotonic() - began < 30
    error = json.loads((folder / "out").read_text())["error"]
    assert error["kind"] == "ClusterError" and error["message"].startswith("Ray was lost: its ")
    assert "the same command goes on" in error["message"]
    said = (folder / "err").read_text()
    assert not [word for word in RAYS_WORDS if word in said + error["message"]], said
    until(lambda: not [one for one in below if alive(one)], "all of its Ray has ended", 60)
    return str(error["message"])


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.parametrize("victim", [RAYLET, GCS])
def test_a_run_ends_and_goes_on_by_the_same_command(victim: str, tmp_path: Path) -> None:
    written = napping(tmp_path, 0.3)
    with command(tmp_path, "train", "spec.yaml") as process:
        until(lambda: logged(tmp_path) > 5 or process.poll() is not None, "it trains")
        message = lost_words(tmp_path, process, killed(process, victim))
    assert victim.split("_")[0] in message.lower()
    (run,) = {stat.key.split("/")[1] for stat in open_store(written["store"]).list("runs/")}
    before = logged(tmp_path)
    with command(tmp_path, "train", "spec.yaml") as process:
        assert process.wait(300) == 0, (tmp_path / "err").read_text()
    assert json.loads((tmp_path / "out").read_text())["run"] == run
    assert logged(tmp_path) - before < 16, "it goes on from a checkpoint"


@pytest.mark.parametrize("victim", [RAYLET, pytest.param(GCS, marks=pytest.mark.long)])
def test_a_search_ends_in_our_words(victim: str, tmp_path: Path) -> None:
    space = {"training.lr": {"grid": [1e-3, 1e-4]}}
    napping(tmp_path, 0.3, search={"space": space, "sampler": "grid", "scheduler": "none", "concurrency": 1})
    with command(tmp_path, "search", "spec.yaml") as process:
        until(lambda: logged(tmp_path) > 3 or process.poll() is not None, "it trains")
        lost_words(tmp_path, process, killed(process, victim))


def slow_prediction(folder: Path) -> tuple[str, ...]:
    """Train a model whose rows take long to read; return the words of a command that answers 60 of them."""
    task = {"type": plugin(folder, "tasks", READER), "log": str(folder / "log"), "seconds": 0.0}
    written = document(folder, epochs=1) | {"task": task, "plugins": [str(folder / "mine")]}
    train_local(RunSpec.resolve(written))
    path = next((folder / "mine" / "tasks").glob("*.py"))
    path.write_text(READER.replace("self.seconds", "0.3"))
    (folder / "log").write_text("")
    words = ("predict", "tiny", "train.csv", "--output", "out.jsonl", "--store", written["store"], "--workers", "1")
    return *words, "--plugins", str(folder / "mine")


@pytest.mark.parametrize("victim", [GCS, pytest.param(RAYLET, marks=pytest.mark.long)])
def test_a_prediction_ends_in_our_words(victim: str, tmp_path: Path) -> None:
    with command(tmp_path, *slow_prediction(tmp_path)) as process:
        until(lambda: logged(tmp_path) > 3 or process.poll() is not None, "it answers")
        lost_words(tmp_path, process, killed(process, victim))


@pytest.mark.parametrize("victim", [RAYLET, pytest.param(GCS, marks=pytest.mark.long)])
def test_an_endpoint_ends_in_our_words(victim: str, tmp_path: Path) -> None:
    written = document(tmp_path, epochs=1)
    train_local(RunSpec.resolve(written))
    port = free_port()
    with command(tmp_path, "serve", "tiny", "--store", written["store"], "--port", str(port)) as process:

        def ready() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
                return bool(reply.status == 200)
            return process.poll() is not None

        until(ready, "it serves")
        lost_words(tmp_path, process, killed(process, victim))


def test_a_search_goes_on_where_a_node_dies(tmp_path: Path) -> None:
    space = {"training.lr": {"grid": [1e-3, 1e-4]}}
    napping(tmp_path, 0.2, search={"space": space, "sampler": "grid", "scheduler": "none", "concurrency": 1})
    with Machines() as machines:
        machines.bring_to(1)
        words = ("search", "spec.yaml", "--address", machines.address)
        with command(tmp_path, *words, environment=machines.environment) as process:
            finished_on_another_node(machines, process, tmp_path)
    found = json.loads((tmp_path / "out").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["finished", "finished"]


def test_a_prediction_goes_on_where_a_node_dies(tmp_path: Path) -> None:
    words = slow_prediction(tmp_path)
    with Machines() as machines:
        machines.bring_to(1)
        with command(tmp_path, *words, "--address", machines.address, environment=machines.environment) as process:
            finished_on_another_node(machines, process, tmp_path)
    rows = [json.loads(line)["row"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == list(range(60))


def finished_on_another_node(machines: Machines, process: subprocess.Popen[str], folder: Path) -> None:
    """Kill the node that works, start another one, and wait until the command has succeeded."""
    until(lambda: logged(folder) > 3 or process.poll() is not None, "it works")
    assert process.poll() is None, (folder / "err").read_text()
    machines.kill(machines.nodes[0])
    machines.bring_to(1)
    assert process.wait(200) == 0, (folder / "err").read_text()


@pytest.mark.parametrize("victim", [RAYLET, pytest.param(GCS, marks=pytest.mark.long)])
def test_a_submitted_job_is_lost_in_our_words(victim: str, tmp_path: Path, moto_endpoint: str) -> None:
    napping(tmp_path, 0.5)
    with (
        head_of_a_cluster(tmp_path, moto_endpoint) as (address, environment, pid),
        command(tmp_path, "train", "spec.yaml", "--address", address, environment=environment) as process,
    ):
        until(lambda: logged(tmp_path) > 5 or process.poll() is not None, "it trains")
        below = psutil.Process(pid).children(recursive=True)
        (one,) = [one for one in below if named(one) == victim]
        one.send_signal(signal.SIGKILL)
        assert process.wait(100) == 1, (tmp_path / "err").read_text()
    error = json.loads((tmp_path / "out").read_text())["error"]
    assert error["kind"] == "ClusterError" and "the same command" in error["message"]
    said = (tmp_path / "err").read_text() + error["message"]
    assert not [word for word in RAYS_WORDS if word in said], said
