"""The text that the chart puts into a RayService starts an endpoint on a Ray cluster, and it answers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helm.charts import CHART, needs_helm, ray_object, rendered, written
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.paths import ROOT
from support.processes import free_port
from support.tiny import document

pytestmark = [
    pytest.mark.slow,
    needs_helm,
    pytest.mark.skipif(
        importlib.util.find_spec("regraft.cluster.serve") is None, reason="there is no endpoint here yet"
    ),
]
BIN = Path(sys.executable).parent
KEYS = "/etc/regraft/keys/keys.yaml"
KEY = "rg_a-key-of-this-test-alone"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Register one tiny model and return its store."""
    folder = tmp_path_factory.mktemp("served")
    spec = RunSpec.resolve(document(folder, epochs=1) | {"compute": {"workers": 0}})
    train_local(spec)
    return spec.store


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head with a token, in a home folder of its own: (dashboard address, environment)."""
    home = tmp_path_factory.mktemp("head")
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "PYTHONPATH": str(ROOT / "platform"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-for-this-test-only-0123456789",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir=/tmp/rgsv{os.getpid()}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = (home / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{ports['dashboard-port']}", environment
    finally:
        end(home, process)
        shutil.rmtree(f"/tmp/rgsv{os.getpid()}", ignore_errors=True)


def end(home: Path, head: subprocess.Popen[bytes]) -> None:
    """End the head and what was started with its home folder, and nothing else."""
    head.terminate()
    own = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                own.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    _, alive = psutil.wait_procs(own, timeout=10)
    for process in alive:
        process.kill()
    head.wait(10)


def ask(url: str, body: object = None, key: str = KEY) -> object:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


def test_the_text_of_the_ray_service_answers(head: tuple[str, dict[str, str]], store: str, tmp_path: Path) -> None:
    address, environment = head
    values = written(CHART / "ci" / "service-values.yaml")
    port = free_port()
    values |= {"store": store, "service": {**values["service"], "port": port, "scaling": {"maxReplicas": 1}}}
    text = ray_object(rendered(values))["spec"]["serveConfigV2"]
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- {{name: shop, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}\n")
    assert text.count(KEYS) == 1
    config = tmp_path / "serve.yaml"
    config.write_text(text.replace(KEYS, str(keys)))  # the one thing that is elsewhere outside a pod

    deploy = [str(BIN / "serve"), "deploy", str(config), "--address", address]
    for _ in range(60):
        done = subprocess.run(deploy, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode == 0:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    url = f"http://127.0.0.1:{port}"
    wait(f"{url}/models", address, environment)
    assert "tiny" in json.dumps(ask(f"{url}/models"))
    answer = ask(f"{url}/models/tiny", {"inputs": "please help with the lamp"})
    assert "label" in json.dumps(answer) and "score" in json.dumps(answer)
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{url}/models/tiny", {"inputs": "please"}, key="rg_wrong")
    assert refused.value.code == 401


def wait(url: str, address: str, environment: dict[str, str]) -> None:
    """Wait until it answers; fail with Serve's status if it does not."""
    for _ in range(120):
        try:
            ask(url)
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    status = [str(BIN / "serve"), "status", "--address", address]
    pytest.fail(subprocess.run(status, env=environment, capture_output=True, text=True).stdout)
