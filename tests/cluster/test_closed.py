"""Open ports while a Ray started by regraft runs: only loopback for regraft, and Ray's own ports require the token."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import grpc
import psutil
import pytest

from support.paths import ROOT

HOLDS = """
import sys
from regraft.cluster.connect import connected
with connected():
    print("ready", flush=True)
    sys.stdin.read()
"""
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ReporterService/ReportOCMetrics",
    "/ray.rpc.RuntimeEnvService/GetOrCreateRuntimeEnv",
    "/ray.rpc.ObjectManagerService/Pull",
)
"""A call of each of Ray's services: with an empty request, and without the token."""


@pytest.fixture(scope="module")
def tree() -> Iterator[psutil.Process]:
    """Return the process tree of a command with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = os.pathsep.join([str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS],
        env={**environment, "PYTHONPATH": paths, "RAY_AUTH_MODE": "token"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield psutil.Process(process.pid)
    process.stdin.close()
    process.wait(60)


def listening(tree: psutil.Process) -> dict[int, tuple[str, str]]:
    """Return port to (address, owner) of every TCP socket that the tree listens on."""
    found = {}
    for process in [tree, *tree.children(recursive=True)]:
        try:
            for line in process.net_connections(kind="inet"):
                if line.status == psutil.CONN_LISTEN:
                    found[line.laddr.port] = (line.laddr.ip, " ".join(process.cmdline())[:120])
        except psutil.Error:
            continue
    return found


def answer_over_grpc(host: str, port: int) -> set[str]:
    """Return the status codes that a port gives to calls without a token."""
    codes = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for call in CALLS:
            try:
                channel.unary_unary(call)(b"", timeout=5)
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
    return codes


def answer_over_http(host: str, port: int) -> str:
    """Return the beginning of the answer to a GET without a token; empty if it is not HTTP."""
    said = b""
    with socket.create_connection((host, port), timeout=5) as line:
        try:
            line.sendall(b"GET /api/jobs/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while len(said) < 2000 and (more := line.recv(2000)):
                said += more
        except OSError:
            pass
        return said.decode("latin-1")


@pytest.mark.slow
def test_every_port_of_our_own_ray_refuses_who_has_no_token(tree: psutil.Process) -> None:
    found = listening(tree)
    assert found, "a Ray listens somewhere"
    refused = 0
    for port, (address, whose) in found.items():
        host = "127.0.0.1" if address in ("0.0.0.0", "::") else address.removeprefix("::ffff:")
        try:
            said = answer_over_http(host, port)
        except ConnectionRefusedError:
            continue  # a worker that has ended since
        if said.startswith("HTTP/1"):
            inside = address in ("127.0.0.1", "::1")
            refusal = any(code in said.splitlines()[0] for code in (" 401", " 403", " 404"))
            # Known, and told in the README: Ray gives its metrics to whoever asks. Numbers, no control.
            metrics = "# HELP " in said and "text/plain" in said
            assert inside or refusal or metrics, (port, address, whose, said)
            continue
        codes = answer_over_grpc(host, port)
        assert "OK" not in codes, (port, whose, codes)
        refused += "UNAUTHENTICATED" in codes
    assert refused >= 3, "the GCS, the raylet and the driver ask for the token"
