"""Ray nodes as processes of this machine: a head without CPUs, and workers that join, are drained and die."""

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

from ray.util import get_node_ip_address

from support.processes import free_port

BIN = Path(sys.executable).parent
TOKEN = "a-token-for-these-tests-only-0123456789"
PATIENCE_S = 240.0
HERE = Path(__file__).parent


def until(true: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait until a function returns a true value, and return it."""
    end = time.monotonic() + patience_s
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.2)
    return found


def settings(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a cluster's nodes and drivers: with a token, without the settings of this process."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
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

    Everything is in one process group and one temporary folder, with a token and on free ports, isolated from other
    processes of this machine.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rgn", dir="/tmp"))  # short: a socket path has at most 107 bytes
        self.environment = settings(self.folder)
        self.nodes: list[str] = []
        self._blind: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        command = [sys.executable, str(HERE / "cluster_process.py"), str(free_port()), str(self.folder)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with (self.folder / "nodes.log").open("w") as log:
            self._nodes_process = subprocess.Popen(
                command, env=self.environment, start_new_session=True, stderr=log, **pipes
            )
        self.address: str = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._blind, self._nodes_process):
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self) -> Any:
        while True:
            line = self._nodes_process.stdout.readline()
            assert line, (self.folder / "nodes.log").read_text()[-3000:]
            with contextlib.suppress(ValueError):  # Ray writes to standard output too
                return json.loads(line)

    def execute(self, do: str, **order: Any) -> Any:
        """Execute a command and return its reply."""
        self._nodes_process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._nodes_process.stdin.flush()
        answer = self._answer()
        assert "ok" in answer, answer
        return answer["ok"]

    def kill(self, node: str) -> None:
        """Kill a node."""
        self.nodes.remove(node)
        self.execute("kill", node=node)

    def drain(self, node: str, seconds: int = 300) -> None:
        """Drain a node."""
        assert self.execute("drain", node=node, seconds=seconds)

    def bring_to(self, count: int, cpus: int = 1) -> list[str]:
        """Start or end nodes until there are `count` beside the head; new ones get so many CPUs."""

        def there() -> bool:
            living = self.execute("living")
            for node in list(self.nodes):
                if node not in living or len(self.nodes) > count:
                    self.kill(node)
            if len(self.nodes) < count:
                self.nodes += self.execute("add", cpus=cpus, count=count - len(self.nodes))
            living = set(self.execute("living"))
            return set(self.nodes) <= living and len(living) == count + 1 + len(self._blind)

        until(there, f"{count} nodes are there")
        return self.nodes

    def add_blind(self, folder: Path) -> None:
        """Start a node without access to a folder, as on another machine: a tmpfs hides it."""
        known = self.execute("living")
        start = [str(BIN / "ray"), "start", "--block", f"--address={self.address}", "--num-cpus=1"]
        start += [f"--dashboard-agent-listen-port={free_port()}", f"--object-store-memory={100 << 20}"]
        hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder), *start]
        with (self.folder / "blind.log").open("w") as log:
            self._blind.append(
                subprocess.Popen(hidden, env=self.environment, start_new_session=True, stdout=log, stderr=log)
            )
        until(lambda: set(self.execute("living")) - set(known), "the blind node is there")


def can_hide() -> bool:
    """Return whether this machine allows mount namespaces."""
    done = subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True)
    return done.returncode == 0


class Grown:
    """`with Grown(most=2) as cluster`: a head without CPUs and an autoscaler for that many nodes of one CPU."""

    def __init__(self, most: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rga", dir="/tmp"))
        port, head = free_port(), "f" * 51 + "00000"
        self.address = f"{get_node_ip_address()}:{port}"  # its nodes expect it there
        more = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": head,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head,
        }
        self._head = settings(self.folder, **more)
        self.environment = settings(self.folder)
        self._port, self._config = port, self._configured(most, head)

    def _configured(self, most: int, head: str) -> dict[str, Any]:
        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": self.address,
            "launch_multiple": True,
            "head_node_id": head,
        }
        none: dict[str, Any] = {"node_config": {}, "min_workers": 0}
        commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        return {
            "cluster_name": "grown",
            "max_workers": most,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "provider": provider,
            "auth": {"ssh_user": "nobody"},
            "available_node_types": {
                "ray.head.default": {**none, "resources": {}, "max_workers": 0},
                "worker": {**none, "resources": {"CPU": 1}, "max_workers": most},
            },
            "head_node_type": "ray.head.default",
            "file_mounts": {},
            "cluster_synced_files": [],
            "docker": {},
            **{f"{name}_commands": [] for name in commands},
        }

    def __enter__(self) -> Self:
        config = self.folder / "autoscaling.yaml"
        config.write_text(json.dumps(self._config))
        ports = [f"--port={self._port}", f"--dashboard-agent-listen-port={free_port()}", "--include-dashboard=false"]
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=0", f"--temp-dir={self.folder}", *ports]
        with (self.folder / "head.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, f"--autoscaling-config={config}"],
                env=self._head,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        until(lambda: self.living() == 1, "the head is there")
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def living(self) -> int:
        """Return the number of living nodes, the head included; 0 while the cluster does not answer."""
        assert self._process.poll() is None, (self.folder / "head.log").read_text()[-2000:]
        command = [sys.executable, str(HERE / "cluster_process.py"), "count", self.address]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        return int(done.stdout.splitlines()[-1]) if done.returncode == 0 else 0


class Driver:
    """A running driver: its events, its row log, its end."""

    def __init__(self, cluster: Machines | Grown, folder: Path, written: dict[str, Any], **options: Any) -> None:
        """`options` are those of counted_driver.py; `environment` replaces the cluster's."""
        environment = options.pop("environment", cluster.environment)
        folder.mkdir(parents=True, exist_ok=True)
        self.row_log = folder / "journal"
        files = [folder / "spec.json", folder / "options.json"]
        files[0].write_text(json.dumps(written))
        files[1].write_text(json.dumps({"journal": str(self.row_log), "markers": str(folder), **options}))
        command = [sys.executable, str(HERE / "counted_driver.py"), *map(str, files), cluster.address]
        self.out = folder / "out"
        with self.out.open("a") as out, (folder / "err").open("a") as err:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, start_new_session=True)

    def events(self) -> list[dict[str, Any]]:
        """Return the driver's events so far, in order, without the output of Ray."""
        return [json.loads(line) for line in self.out.read_text().splitlines() if line.startswith('{"event"')]

    def steps(self) -> list[int]:
        """Return the steps in the order of their execution."""
        if not self.row_log.exists():
            return []
        return [int(line.split()[1]) for line in self.row_log.read_text().splitlines()]

    def ended(self, code: int = 0) -> list[dict[str, Any]]:
        """Wait for its end and return all its events."""
        try:
            until(lambda: self.process.poll() is not None, "the driver ends", 1200)
        finally:
            end(self.process)
        assert self.process.returncode == code, self.out.read_text()[-3000:] + self.out.with_name("err").read_text()
        return self.events()


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
