"""`ray job submit` with only the repository as working directory, on a running cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml

from regraft.cluster.job_api import Cluster
from regraft.errors import ClusterError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.local_s3 import local_server
from support.paths import ROOT
from support.processes import free_port
from support.tiny import document
from unit.store.conftest import REAL
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.training.test_s3_run import on_s3

BIN = Path(sys.executable).parent


DRAWN = {name: f"{name}-{token_hex(16)}" for name in ("token", "node", "user")}
"""Secrets of this run alone: this very file is sent to the cluster by a test, and what it holds is no leak."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, moto_endpoint: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A running head: (dashboard address, environment)."""
    with head_of_a_cluster(tmp_path_factory.mktemp("ray"), moto_endpoint) as (address, environment, _):
        yield address, environment


@contextmanager
def head_of_a_cluster(folder: Path, moto_endpoint: str) -> Iterator[tuple[str, dict[str, str], int]]:
    """A head started by `ray start` with a token, in its own process group: dashboard address, environment, pid."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": DRAWN["token"],
        "HF_HUB_OFFLINE": "1",
        "REGRAFT_CACHE": str(folder / "cache"),
        **keys(moto_endpoint),
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
        yield address, environment, head.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, 15)
        try:
            head.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, 9)


def keys(moto: str) -> dict[str, str]:
    """The nodes' keys for S3: of the real server that REGRAFT_TEST_S3 names, or of moto's."""
    if REAL:
        return {}
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    return {
        **nowhere,
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": DRAWN["node"],
        "AWS_DEFAULT_REGION": "us-east-1",
    }


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_store_inside_the_jobs_own_directory_is_refused(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    written = document(tmp_path) | {"compute": {"workers": 1}, "store": "./regraft-store"}
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    done = submit(cluster, "jobs/train.py", str(path))
    assert done.returncode != 0
    assert "deleted with it" in done.stdout


@pytest.mark.slow
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


@pytest.mark.slow
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
        timeout=120,
    )
    assert done.returncode == 1
    assert "no Ray answers there" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_client_of_another_ray_version_is_shown_both_versions(
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


def regraft(
    cluster: tuple[str, dict[str, str]], folder: Path, *words: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    """The command line of this tree, as a client of the cluster that shares nothing with it but the address."""
    own = ("REGRAFT_CACHE", "GCS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment = {name: value for name, value in cluster[1].items() if name not in own}
    environment |= {"PYTHONPATH": str(ROOT / "platform"), **changes}
    command = [sys.executable, "-m", "regraft", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def user_folder(folder: Path, **changes: Any) -> dict[str, Any]:
    """A folder with a spec whose base and rows lie in it, as people write them."""
    written = document(folder, epochs=1)
    written |= {"base": "./base", "data": {"train": "train.csv", "eval": "eval.csv"}, "store": str(folder / "store")}
    written |= {"compute": {"workers": 1, "cpus": 1}, **changes}
    (folder / "spec.yaml").write_text(yaml.safe_dump(written))
    (folder / ".env").write_text(f"SECRET={DRAWN['user']}")
    return written


@pytest.mark.slow
def test_a_command_with_the_clusters_address_trains_and_predicts_there(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    user_folder(tmp_path)
    mine = {name: f"canary-{token_hex(8)}" for name in ("AWS_SECRET_ACCESS_KEY", "REGRAFT_KEYS", "HF_TOKEN")}
    done = regraft(cluster, tmp_path, "train", "spec.yaml", "--address", cluster[0], "--json", **mine)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "v1"
    assert "submitted job regraft-train-tiny-" in done.stderr
    assert "step 8  epoch 1  accuracy" in done.stderr, "the usual progress, from the job's log"
    assert "INFO" not in done.stderr and "@regraft" not in done.stderr
    assert not list((tmp_path / "store").glob(".regraft-seen-*"))
    sent = subprocess.run(
        [str(BIN / "ray"), "job", "list", "--address", cluster[0]], env=cluster[1], capture_output=True, text=True
    ).stdout
    assert "regraft.cli.jobs.entry train tiny.yaml" in sent
    secrets = [*mine.values(), DRAWN["user"], *(cluster[1][name] for name in NODES if name in cluster[1])]
    assert leaks(secrets, [tmp_path / "store", Path(f"/tmp/rg{os.getpid()}")], sent + done.stdout + done.stderr) == []


NODES = ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN")
"""What the nodes know and nobody else is to see."""


def leaks(secrets: list[str], folders: list[Path], said: str) -> list[str]:
    """Where a secret stands that should stand nowhere: files below `folders`, arguments of processes, what was said."""
    found = [f"said: {secret}" for secret in secrets if secret in said]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found += [f"{path}: {secret}" for secret in secrets if secret.encode() in data]
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        found += [f"{line[:80]}: {secret}" for secret in secrets if secret in line]
    return found


def test_the_job_api_lets_nobody_in_without_the_token_and_listens_on_loopback(
    cluster: tuple[str, dict[str, str]],
) -> None:
    for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 403)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(f"{cluster[0]}/api/jobs/", headers=headers), timeout=10)
        assert caught.value.code == status
    port = int(cluster[0].rpartition(":")[2])
    lines = [line for line in psutil.net_connections("tcp") if line.status == psutil.CONN_LISTEN]
    assert {line.laddr.ip for line in lines if line.laddr.port == port} == {"127.0.0.1"}


@pytest.mark.slow
def test_a_prediction_is_submitted_too(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    written = user_folder(tmp_path)
    train_local(RunSpec.resolve(document(tmp_path, epochs=1) | {"store": written["store"]}))
    out = str(tmp_path / "out.jsonl")
    words = ("predict", "tiny", "train.csv", "--output", out, "--store", written["store"], "--workers", "1")
    done = regraft(cluster, tmp_path, *words, "--address", cluster[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(Path(out).read_text().splitlines()) == 60


@pytest.mark.slow
def test_a_search_is_submitted_by_either_way(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    search = {"space": {"training.lr": {"grid": [1e-3, 1e-2]}}, "sampler": "grid"}
    written = user_folder(tmp_path, method="feature-extraction", search=search)
    done = regraft(cluster, tmp_path, "search", "spec.yaml", "--address", cluster[0])
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "submitted job regraft-search-tiny-" in said and "@regraft" not in said
    assert "2: 2 finished" in said and "tiny@v1" in said
    elsewhere = written | {"base": str(tmp_path / "base")}
    elsewhere["data"] = {"train": str(tmp_path / "train.csv"), "eval": str(tmp_path / "eval.csv")}
    (tmp_path / "elsewhere.yaml").write_text(yaml.safe_dump(elsewhere))
    done = submit(cluster, "jobs/search.py", str(tmp_path / "elsewhere.yaml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2: 2 finished" in done.stdout and "tiny@v2" in done.stdout


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"compute": {"workers": 64, "cpus": 1}}, 2, "the cluster has 2"),
        ({"store": "s3://regraft-no-such-bucket/x"}, 1, "the bucket does not exist"),
        ({"data": {"train": "nowhere.csv"}}, 2, "there is no such file"),
    ],
)
@pytest.mark.slow
def test_what_is_wrong_there_is_reported_here_with_its_exit_code(
    changes: dict[str, Any], code: int, message: str, cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    user_folder(tmp_path, **changes)
    done = regraft(cluster, tmp_path, "train", "spec.yaml", "--address", cluster[0])
    assert (done.returncode, message in done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_address_that_lets_nobody_in_is_reported_with_what_to_do(
    cluster: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_folder(tmp_path)
    nobody = regraft(cluster, tmp_path, "train", "spec.yaml", "--address", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 1 and "no cluster answers there" in nobody.stderr
    assert not (tmp_path / "store").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    for token, message in (("another-token", "does not know this token"), ("", "set RAY_AUTH_MODE=token")):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(ClusterError, match=message):
            Cluster(cluster[0])
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster[1]["RAY_AUTH_TOKEN"])
    monkeypatch.setattr("ray.__version__", "2.40.0")
    with pytest.raises(ClusterError, match=r"runs Ray 2\.60\S* and this client 2\.40"):
        Cluster(cluster[0])


@pytest.mark.slow
def test_an_interrupted_client_leaves_the_job_which_another_machine_can_stop(
    cluster: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    written = user_folder(tmp_path, training={"steps": 100_000, "batch_size": 8, "baselines": False})
    environment = {**cluster[1], "PYTHONPATH": str(ROOT / "platform")}
    command = [sys.executable, "-m", "regraft", "train", "spec.yaml", "--address", cluster[0]]
    client = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    said = []
    for line in client.stdout:
        said.append(line)
        if line.startswith("step "):
            break
    client.send_signal(signal.SIGINT)
    rest = client.stdout.read()
    assert client.wait(60) == 130, said
    assert "goes on without this command" in rest
    run = next(line.split()[1].rstrip(":") for line in said if line.startswith("run "))
    store = ("--store", str(written["store"]))
    listed = json.loads(regraft(cluster, tmp_path, "runs", "list", *store, "--json").stdout)["runs"]
    assert [(found["run"], found["state"]) for found in listed] == [(run, "running")]
    stopped = regraft(cluster, tmp_path, "runs", "stop", run, *store, "--wait", "120", "--json")
    found = json.loads(stopped.stdout)
    assert found["state"] == "stopped" and 0 < found["step"] < 100_000
    log = regraft(cluster, tmp_path, "runs", "logs", run, *store).stdout
    assert "60 rows, 100,000 steps" in log and "ended: Stopped" in log


@pytest.mark.slow
def test_doctor_looks_at_the_cluster_from_inside(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    user_folder(tmp_path, compute={"workers": 3, "cpus": 1})
    store = "s3://tests/doctor" if not REAL else f"{REAL.rstrip('/')}/doctor"
    words = ("doctor", "spec.yaml", "--address", cluster[0], "--store", store, "--json")
    secret = {
        name: cluster[1].get(name, os.environ.get(name, "")) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    done = regraft(cluster, tmp_path, *words, **secret)
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    failed = {name for name, finding in found.items() if finding["status"] == "fail"}
    assert failed == {"resources"} and "the cluster has 2" in found["resources"]["found"]
    assert "by 1 nodes" in found["store"]["found"] or "by 1 node" in found["store"]["found"]
    assert {"clocks", "clocks: S3", "workers meet", "ray token", "versions"} <= set(found)


@pytest.mark.slow
def test_submitted_jobs_train_search_and_predict_with_everything_on_s3(
    cluster: tuple[str, dict[str, str]], moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not REAL:
        local_server(monkeypatch, moto_endpoint)
    root = f"{REAL.rstrip('/') or 's3://tests'}/jobs-{uuid4().hex}"
    there = on_s3(document(tmp_path, epochs=1), tmp_path, root) | {"compute": {"workers": 1, "cpus": 1}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(there))
    done = submit(cluster, "jobs/train.py", str(tmp_path / "spec.yaml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    words = ("tiny", f"{root}/inputs/train.csv", "--output", f"{root}/out.jsonl", "--store", there["store"])
    done = submit(cluster, "jobs/predict.py", *words, "--workers", "1")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    search = {"space": {"training.lr": {"grid": [1e-3, 1e-2]}}, "sampler": "grid"}
    searched = there | {"method": "feature-extraction", "search": search}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(searched))
    done = submit(cluster, "jobs/search.py", str(tmp_path / "search.yaml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2: 2 finished" in done.stdout and "tiny@v2" in done.stdout
    everything = open_store(root)
    assert len(everything.get("out.jsonl").splitlines()) == 60
    assert {version.version for version in Registry(open_store(there["store"])).versions("tiny")} == {"v1", "v2"}
    everything.delete([stat.key for stat in everything.list()])
