"""Ctrl-C with `--address`: a submitted job is asked about, or goes on; a run that this command drives is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.test_job_submit import cluster as cluster
from cluster.test_job_submit import regraft, user_folder
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.interrupted_commands import RunningCommand, logged_steps, only_name, paced
from support.paths import PLATFORM
from support.tiny import document
from unit.store.conftest import moto_endpoint as moto_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LONG = {"steps": 100_000, "batch_size": 8, "baselines": False}


class Terminal:
    """A command on a terminal of its own, whose Ctrl-C interrupts all of the foreground's processes."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._here, there = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(there)

    def expect(self, pattern: str, *, within_s: float = 120.0) -> None:
        """Read until the pattern is on the screen, from the last such place on."""
        end = time.monotonic() + within_s
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r}: {self.text[-3000:]}"
            if select.select([self._here], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self._here, 65536).decode(errors="replace")
                except OSError:  # the command has ended
                    assert re.search(pattern, self.text), f"ended without {pattern!r}: {self.text[-3000:]}"
        self.text = self.text[found.end() :]

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._here, keys.encode())

    def ended(self, *, within_s: float = 120.0) -> int:
        """Read to the end and return the exit code."""
        end = time.monotonic() + within_s
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self._here], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self._here, 65536).decode(errors="replace")
                except OSError:
                    break
        code = self.process.wait(10)
        os.close(self._here)
        return code


def client_environment(cluster: tuple[str, dict[str, str]]) -> dict[str, str]:
    return {**cluster[1], "PYTHONPATH": str(PLATFORM), "TERM": "xterm", "COLUMNS": "150"}


def test_on_a_terminal_ctrl_c_asks_and_each_answer_is_done(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    written = user_folder(tmp_path, training=LONG)
    command = [sys.executable, "-m", "regraft", "train", "spec.yaml", "--address", cluster[0]]
    terminal = Terminal(command, tmp_path, client_environment(cluster))
    question = r"stop the job, leave it running \(detach\), or go on\? \[s/d/g\] "
    terminal.expect(r"step +\d|\d+/100,000|loss")
    terminal.type("\x03")
    terminal.expect(question)
    terminal.type("g\n")
    terminal.expect(r"step +\d|\d+/100,000|loss")
    assert state_of(written) == "running"
    terminal.type("\x03")
    terminal.expect(question)
    terminal.type("d\n")
    terminal.expect("goes on without this command; the same command follows it again")
    assert terminal.ended() == 130
    assert state_of(written) == "running"
    again = Terminal(command, tmp_path, client_environment(cluster))
    again.expect("follows job")
    again.expect(r"step +\d|\d+/100,000|loss")
    again.type("\x03")
    again.expect(question)
    again.type("s\n")
    again.expect("stopping job")
    assert again.ended() == 130
    store, run = open_store(str(written["store"])), only_name(str(written["store"]))
    info, kept = Runs(store).info(run), max(one.step for one in Checkpoints(store, run).listed())
    assert (info.state, info.step) == ("stopped", kept) and 0 < kept < LONG["steps"]


def state_of(written: dict[str, Any]) -> str:
    return Runs(open_store(str(written["store"]))).info(only_name(str(written["store"]))).state


def test_the_whole_group_interrupted_without_a_terminal_leaves_a_submitted_search_running(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    search = {"space": {"training.lr": {"grid": [1e-3, 1e-2]}}, "sampler": "grid", "scheduler": "none"}
    written = user_folder(tmp_path, search=search)
    made = paced(tmp_path, {**written, "compute": {"workers": 1, "cpus": 1}}, nap=0.3)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**made, "search": {**search, "concurrency": 1}}))
    words = ("search", "spec.yaml", "--address", cluster[0])
    client = RunningCommand(tmp_path, *words, **client_environment(cluster))
    client.steps_reach(2)
    client.interrupt()
    assert client.ended() == 130, client.err[-3000:]
    assert "goes on without this command; the same command follows it again" in client.out + client.err
    assert "Traceback" not in client.err
    (tmp_path / "mine" / "nap").write_text("0")
    done = regraft(cluster, tmp_path, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in json.loads(done.stdout)["trials"]] == ["finished", "finished"]
    assert logged_steps(tmp_path) == [*range(8)] * 2, "the search went on undisturbed"


def test_a_run_that_the_command_drives_on_a_cluster_stops_with_a_checkpoint_and_the_cluster_stays(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    written = paced(tmp_path, {**document(tmp_path), "compute": {"workers": 2, "cpus": 1}})
    words = ("train", "spec.yaml", "--address", cluster[1]["GCS"])
    command = RunningCommand(tmp_path, *words, **client_environment(cluster))
    command.steps_reach(4)
    command.interrupt()
    assert command.ended() == 130, command.err[-3000:]
    assert "Traceback" not in command.err
    taken = logged_steps(tmp_path)
    info = Runs(open_store(written["store"])).info(only_name(written["store"]))
    assert (info.state, info.step) == ("stopped", len(taken))
    (tmp_path / "mine" / "nap").write_text("0")
    again = RunningCommand(tmp_path, *words, **client_environment(cluster))
    assert again.ended() == 0, again.err[-3000:]
    assert logged_steps(tmp_path) == list(range(16))
