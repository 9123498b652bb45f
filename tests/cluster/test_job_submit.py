"""`ray job submit` with only the repository as working directory, on a running cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from regraft.store.objects import open_store
from regraft.store.registry import Registry
from tiny import document
from workers import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head started by `ray start` with a token, in its own process group: (dashboard address, environment)."""
    folder = tmp_path_factory.mktemp("ray")
    ports = {name: free_port() for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-for-this-test-only-0123456789",
        "HF_HUB_OFFLINE": "1",
        "REGRAFT_CACHE": str(folder / "cache"),
        "GCS": f"127.0.0.1:{ports['port']}",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    options = [f"--{name}={port}" for name, port in ports.items()]
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--temp-dir=" + short(folder), *options]
    log = (folder / "head.log").open("w")
    head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        wait_for(address, environment, head)
        yield address, environment
    finally:
        os.killpg(head.pid, 15)
        try:
            head.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, 9)


def short(folder: Path) -> str:
    """Ray's sockets lie below its temporary folder, and a socket's path has at most 107 bytes."""
    target = Path("/tmp") / f"rg{os.getpid()}"
    target.mkdir(exist_ok=True)
    return str(target)


def wait_for(address: str, environment: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    for _ in range(60):
        assert head.poll() is None, "the head ended"
        done = subprocess.run(
            [str(BIN / "ray"), "job", "list", "--address", address], env=environment, capture_output=True
        )
        if done.returncode == 0:
            return
    raise TimeoutError("the head did not answer")


def submit(cluster: tuple[str, dict[str, str]], *arguments: str) -> subprocess.CompletedProcess[str]:
    address, environment = cluster
    command = ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_submitted_job_registers_a_model_and_its_workers_use_the_uploaded_code(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    written = document(tmp_path, epochs=1) | {"compute": {"workers": 2, "cpus": 1}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    done = submit(cluster, "jobs/train.py", str(path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "tiny@v1" in done.stdout
    assert Registry(open_store(written["store"])).version("tiny").version == "v1"
    again = submit(cluster, "jobs/train.py", str(path))
    assert again.returncode == 0 and "finished" in again.stdout


def test_a_store_inside_the_jobs_own_directory_is_refused(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    written = document(tmp_path) | {"compute": {"workers": 1}, "store": "./regraft-store"}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    done = submit(cluster, "jobs/train.py", str(path))
    assert done.returncode != 0
    assert "deleted with it" in done.stdout


def test_a_wrong_token_is_one_clear_message(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    _, environment = cluster
    written = document(tmp_path) | {"compute": {"workers": 1}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    done = subprocess.run(
        [str(BIN / "regraft"), "train", str(path)],
        env={**environment, "RAY_AUTH_TOKEN": "wrong", "RAY_ADDRESS": environment["GCS"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "RAY_AUTH_TOKEN" in done.stderr and "Traceback" not in done.stderr


def test_an_address_where_nobody_listens_is_answered_at_once(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    written = document(tmp_path) | {"compute": {"workers": 1}}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    done = subprocess.run(
        [str(BIN / "regraft"), "train", str(path)],
        env={**cluster[1], "RAY_ADDRESS": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "no Ray answers there" in done.stderr and "Traceback" not in done.stderr


def test_a_client_of_another_ray_version_is_told_both_versions(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document(tmp_path) | {"compute": {"workers": 1}}))
    code = "import sys, ray; ray.__version__ = '2.40.0'; from regraft.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**cluster[1], "RAY_ADDRESS": cluster[1]["GCS"]}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "the cluster runs other versions" in done.stderr and "Traceback" not in done.stderr
    assert "2.40.0" in done.stderr and "2.60" in done.stderr
