"""The watch on Ray: what has ended is found, and whatever the command then raises is one error of ours."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RaySystemError

from regraft.cluster import ray_watch, sudden_end
from regraft.cluster.ray_watch import GcsProbe, RayletProbe, raise_if_lost, watching
from regraft.errors import ClusterError, DataError, RegraftError
from support.processes import free_port


class Listener:
    """A socket that accepts connections, as a raylet does, until it ends."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._server.settimeout(5)
        self.accepted: list[socket.socket] = []

    def accept(self) -> None:
        self.accepted.append(self._server.accept()[0])

    def end(self) -> None:
        for one in (self._server, *self.accepted):
            one.close()


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(tmp_path / "s")
    yield made
    made.end()


@pytest.fixture
def node(raylet: Listener, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A node of Ray whose raylet is the listener; its GCS is not looked at."""
    made = SimpleNamespace(raylet_socket_name=raylet.path, gcs_address="", all_processes={})
    monkeypatch.setattr(ray_watch.ray_worker, "_global_node", made)
    monkeypatch.setattr(ray_watch, "POLL_S", 0.02)
    return made


def test_a_raylet_has_ended_when_its_socket_is_gone_and_not_when_a_connection_is(raylet: Listener) -> None:
    probe = RayletProbe(raylet.path)
    raylet.accept()
    assert not probe.has_ended()
    raylet.accepted[0].close()
    assert not probe.has_ended(), "it still listens"
    raylet.accept()
    raylet.end()
    assert probe.has_ended()
    probe.close()


def test_a_raylet_that_was_never_reached_is_not_taken_for_one_that_has_ended(tmp_path: Path) -> None:
    assert not RayletProbe(str(tmp_path / "nowhere")).has_ended()


def test_the_gcs_of_another_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_watch, "GCS_LOOK_S", 0.0)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.3")
    port = free_port()
    probe = GcsProbe(None, f"127.0.0.1:{port}")
    assert not probe.has_ended(), "it is waited for"
    assert probe.has_ended(now=True), "after a call that failed it is not"
    time.sleep(0.25)
    assert probe.has_ended()
    with socket.create_server(("127.0.0.1", port)):
        assert not probe.has_ended() and not probe.has_ended(now=True)


def test_an_own_gcs_has_ended_with_its_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        probe = GcsProbe(process, "127.0.0.1:1")
        assert not probe.has_ended()
        process.kill()
        process.wait(10)
        assert probe.has_ended()


def test_a_command_that_waits_is_interrupted(node: Any, raylet: Listener) -> None:
    ended: list[bool] = []
    handler = signal.getsignal(signal.SIGRTMIN)
    began = time.monotonic()
    lost = pytest.raises(ClusterError, match=r"^Ray was lost: its raylet.*the same command goes on")
    with lost, watching(lambda: ended.append(True)):
        raylet.end()
        time.sleep(30)
    assert time.monotonic() - began < 10 and ended == [True]
    assert signal.getsignal(signal.SIGRTMIN) == handler


@pytest.mark.parametrize(
    "error", [RaySystemError("x"), ClusterError("a worker failed"), ConnectionError("refused"), DataError("a row")]
)
def test_whatever_fails_when_ray_has_ended_is_ray_that_was_lost(
    error: Exception, node: Any, raylet: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_watch, "POLL_S", 30)
    with pytest.raises(ClusterError, match=r"^Ray was lost: "), watching(lambda: None):
        raylet.end()
        raise error


def test_an_interrupt_that_was_taken_for_ctrl_c_is_the_error_too(node: Any, raylet: Listener) -> None:
    with pytest.raises(ClusterError, match=r"^Ray was lost: "), watching(lambda: None):
        raylet.end()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(30)


def test_a_worker_is_not_blamed_for_ray(node: Any, raylet: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_watch, "POLL_S", 30)
    raise_if_lost()  # without a watch there is nothing to look at
    with pytest.raises(ClusterError, match=r"^Ray was lost: "), watching(lambda: None):
        raise_if_lost()
        raylet.end()
        raise_if_lost()


def test_errors_while_ray_runs_stay_what_they_are_and_rays_own_are_short(node: Any) -> None:
    with pytest.raises(DataError, match=r"^a row$"), watching(lambda: None):
        raise DataError("a row")
    with pytest.raises(KeyboardInterrupt), watching(lambda: None):
        raise KeyboardInterrupt
    with pytest.raises(ClusterError, match=r"^Ray failed: RaySystemError: System error: x$"), watching(lambda: None):
        raise RaySystemError("x\n  at core_worker.cc:1")


def test_the_end_of_ray_by_the_command_itself_is_no_loss(node: Any, raylet: Listener) -> None:
    with watching(lambda: (raylet.end(), time.sleep(0.2))):
        pass


def test_a_command_that_does_not_return_is_left_with_its_error(
    node: Any, raylet: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[RegraftError] = []
    done = threading.Event()
    monkeypatch.setattr(ray_watch, "LEAVE_S", 0.05)
    monkeypatch.setattr(sudden_end, "leave", lambda error: (left.append(error), done.set()))
    with pytest.raises(ClusterError), watching(lambda: done.wait(10)):
        raylet.end()
        time.sleep(30)
    assert [str(error).startswith("Ray was lost: ") for error in left] == [True]


def test_leaving_reports_and_ends_with_the_errors_code() -> None:
    code = (
        "import threading, time; from regraft.cluster import sudden_end; from regraft.errors import RequestError\n"
        "threading.Thread(target=lambda: sudden_end.leave(RequestError('gone', 'Ray'))).start(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: Ray: gone\n")
