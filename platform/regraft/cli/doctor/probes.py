"""Measurements that `regraft doctor` takes of the machine: CPUs, memory, a process group, an address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psutil

import regraft
from regraft.cluster.auth import auth_header, status_help

_CGROUP = Path("/sys/fs/cgroup")
_RING_S = 90.0
"""Seconds after which two processes count as hanging; starting Python with torch twice takes some on a busy machine."""


def cpus() -> float:
    """Return how many CPUs this process may use: its affinity, or its container's quota if that is less."""
    affinity = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _read("cpu.max").partition(" ")
    return min(affinity, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else affinity


def memory() -> tuple[int, int]:
    """Return (total bytes, bytes in use): the machine's, or the container's if it has a limit."""
    machine = psutil.virtual_memory()
    limit, used = _read("memory.max"), _read("memory.current")
    if limit.isdigit() and used.isdigit() and int(limit) < machine.total:
        return int(limit), int(used)
    return machine.total, machine.total - machine.available


def _read(name: str) -> str:
    try:
        return (_CGROUP / name).read_text().strip()
    except OSError:
        return ""


def ring() -> tuple[float, str]:
    """Have two processes sum a number over gloo; return (seconds, error), the error empty on success."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="regraft-ring-") as folder:
        ranks = [_rank(rank, Path(folder)) for rank in range(2)]
        try:
            ends = [rank.communicate(timeout=max(1.0, began + _RING_S - time.monotonic())) for rank in ranks]
        except subprocess.TimeoutExpired:
            return time.monotonic() - began, f"two processes did not find one another in {_RING_S:.0f} s"
        finally:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
                    rank.wait()
        wrong = [text.strip() for rank, (_, text) in zip(ranks, ends, strict=True) if rank.returncode]
    return time.monotonic() - began, (wrong[0].splitlines() or ["it ended without an error message"])[
        -1
    ] if wrong else ""


def _rank(rank: int, folder: Path) -> subprocess.Popen[str]:
    source = str(Path(regraft.__file__).parent.parent)
    paths = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": loopback(), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "regraft.cli.doctor.ring", str(rank), str(folder / "rendezvous")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def loopback() -> str:
    """Return the name of the loopback interface (`lo`, `lo0`)."""
    names = [name for name, _ in psutil.net_if_stats().items() if name.startswith("lo")]
    return min(names, key=len, default="lo")


def connection_error(address: str, *, timeout_s: float = 5.0) -> str:
    """Return why a cluster's address does not answer; empty if it does."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if parts.scheme in ("http", "https"):
        try:
            request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=auth_header())
            with urllib.request.urlopen(request, timeout=timeout_s):
                return ""
        except urllib.error.HTTPError as error:
            return status_help(error.code)
        except (OSError, ValueError) as error:
            return f"it does not answer ({error})"
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 10001), timeout=timeout_s):
            return ""
    except (OSError, ValueError) as error:
        return f"it does not answer ({error})"
