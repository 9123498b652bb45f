"""`ray up`, `ray exec` and `ray rsync-down` with cluster.yaml's own commands, on this machine as its own remote.

Stand-ins for ssh and rsync run and copy here, in a home folder of the test's own; one for `python3 -m venv` makes an
environment whose pip only notes what it was asked and whose `ray` ends nobody else's Ray and takes free ports.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from support.paths import ROOT
from support.processes import free_port

pytestmark = pytest.mark.slow
RAY = Path(sys.executable).parent / "ray"

SSH = """\
while [ $# -gt 0 ]; do case "$1" in *@127.0.0.[123]) shift; break;; esac; shift; done
echo "$*" >> "$HOME/ssh.log"
exec bash -c "$*"
"""
RSYNC = """\
source=${@: -2:1} target=${@: -1}
echo "$source $target" >> "$HOME/rsync.log"
source=${source#*@127.0.0.[123]:} target=${target#*@127.0.0.[123]:}
source=${source/#\\~/$HOME} target=${target/#\\~/$HOME}
[ "$source" -ef "$target" ] && exit 0  # the second node has this home folder too
case "$source" in */) mkdir -p "$target"; exec cp -a "$source." "$target";; *) exec cp -a "$source" "$target";; esac
"""
PYTHON = """\
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
mkdir -p "$3/bin"
printf '#!/bin/bash\\necho "$*" >> "$HOME/pip.log"\\n' > "$3/bin/pip"
cp "$HOME/stand-ins/.ray" "$3/bin/ray"
chmod +x "$3/bin/pip"
"""
RAY_COMMAND = """\
case "$1" in
    stop) echo "$*" >> "$HOME/stopped.log";;
    start) case "$*" in
        *--head*) exec {ray} "$@" {head};;
        *) exec {ray} "$@" {worker};;
    esac;;
    *) exec {ray} "$@";;
esac
"""


@dataclass(frozen=True)
class Launched:
    """A cluster that `ray up` made."""

    home: Path
    config: Path
    ports: dict[str, int]
    environment: dict[str, str]
    said: str

    def ray(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(RAY), *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=180,
            stdin=subprocess.DEVNULL,
        )


def script(path: Path, text: str) -> None:
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(0o755)


def sample_pages(home: Path, ports: dict[str, int], temporary: Path) -> None:
    """The programs that the launcher and the nodes call."""
    folder = home / "stand-ins"
    folder.mkdir(parents=True)
    head = " ".join(f"--{name}={port}" for name, port in ports.items())
    others = ("dashboard-agent-listen-port", "metrics-export-port", "object-manager-port")
    worker = " ".join([f"--address=127.0.0.1:{ports['port']}", *(f"--{name}={free_port()}" for name in others)])
    script(folder / "ssh", SSH)
    script(folder / "rsync", RSYNC)
    script(folder / "python3", PYTHON.format(python=sys.executable))
    script(folder / ".ray", RAY_COMMAND.format(ray=RAY, head=f"{head} --temp-dir={temporary}", worker=worker))
    (home / ".bashrc").write_text(f'export PATH="{folder}:/usr/bin:/bin"\n')
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text("no key: the stand-in for ssh asks for none\n")


def on_this_machine(name: str) -> str:
    """cluster.yaml for one's own machines, with this one as all three of them.

    Ray 2.60's autoscaler counts the head among the workers that must be there, so that of two one is started unasked.
    """
    (command,) = re.findall(r"^#   (sed .*s/\^#local //' cluster\.yaml) >", (ROOT / "cluster.yaml").read_text(), re.M)
    text = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    config = yaml.safe_load(text)
    config["cluster_name"] = name
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": ["127.0.0.2", "127.0.0.3"]}
    return yaml.safe_dump(config)


def end(home: Path) -> None:
    """End what was started with this home folder, and nothing else."""
    own = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("HOME") == str(home):
                own.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    for process in own:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(own, timeout=10)
    for process in alive:
        process.kill()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    home = tmp_path_factory.mktemp("home")
    temporary = Path("/tmp") / f"rgup{os.getpid()}"
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port", "object-manager-port")
    ports = {name: free_port() for name in names}
    sample_pages(home, ports, temporary)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))},
        "HOME": str(home),
        "PATH": f"{home / 'stand-ins'}:/usr/bin:/bin",
        "RAY_UP_enable_autoscaler_v2": "1",
    }
    config = home / "cluster.yaml"
    config.write_text(on_this_machine(f"regraft-test-{os.getpid()}"))
    cluster = Launched(home, config, ports, environment, "")
    try:
        done = cluster.ray("up", "-y", "--no-config-cache", str(config))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield Launched(home, config, ports, environment, done.stdout + done.stderr)
    finally:
        end(home)
        shutil.rmtree(temporary, ignore_errors=True)
        for path in Path("/tmp/ray").glob(f"cluster-regraft-test-{os.getpid()}.*"):
            path.unlink()


def test_the_node_is_set_up_as_the_file_says(launched: Launched) -> None:
    installed = (launched.home / "pip.log").read_text().splitlines(keepends=True)
    assert installed[0] == f"install -q -c {launched.home}/regraft/constraints.txt {launched.home}/regraft\n"
    assert (launched.home / "regraft" / "platform" / "regraft" / "errors.py").is_file()
    assert (launched.home / "regraft" / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()
    assert (launched.home / "stopped.log").read_text().startswith("stop\n")
    assert (launched.home / ".bashrc").read_text().count(".regraft.sh") == 1
    assert "max_workers" not in launched.said, "a warning of the launcher"


def test_commands_run_on_the_cluster_and_see_its_settings(launched: Launched) -> None:
    address = f"127.0.0.1:{launched.ports['port']}"
    for _ in range(30):
        done = launched.ray("exec", "--no-config-cache", str(launched.config), f"ray status --address {address}")
        if "local.cluster.node" in done.stdout:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "local.cluster.node" in done.stdout, done.stdout + done.stderr
    said = launched.ray(
        "exec", "--no-config-cache", str(launched.config), "echo $RAY_AUTH_MODE in $REGRAFT_STORE"
    ).stdout
    assert "token in s3://your-bucket/regraft" in said


def test_the_token_is_made_on_the_head_for_its_user_alone_and_opens_the_job_api(launched: Launched) -> None:
    made = launched.home / ".ray" / "auth_token"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    token = made.read_text()
    assert token not in launched.said and token not in (launched.home / "ssh.log").read_text()
    here = launched.home / "here"
    done = launched.ray("rsync-down", str(launched.config), "~/.ray/auth_token", str(here))
    assert done.returncode == 0 and here.read_text() == token
    api = ("job", "list", "--address", f"http://127.0.0.1:{launched.ports['dashboard-port']}")
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(here)}
    assert launched.ray(*api, **known).returncode == 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{api[-1]}/api/jobs/", timeout=30)
    assert refused.value.code == 401


def test_the_head_sets_up_a_worker_and_hands_it_the_token_over_ssh(launched: Launched) -> None:
    command = f"ray list nodes --address http://127.0.0.1:{launched.ports['dashboard-port']} --format yaml"
    nodes: list[dict[str, Any]] = []
    for _ in range(60):
        done = launched.ray("exec", "--no-config-cache", str(launched.config), command)
        told = re.search(r"^---\n(.*?)^\.\.\.$", done.stdout, re.MULTILINE | re.DOTALL)
        nodes = [node for node in yaml.safe_load(told[1]) if node["state"] == "ALIVE"] if told else []
        if len(nodes) == 2:
            break
        time.sleep(1)
    assert len(nodes) == 2, done.stdout + done.stderr
    cpus = {node["is_head_node"]: node["resources_total"].get("CPU", 0) for node in nodes}
    assert cpus[True] == 0 and cpus[False] > 0
    token = launched.home / ".ray" / "auth_token"
    sent = (launched.home / "rsync.log").read_text().splitlines()
    assert [
        line
        for line in sent
        if line.startswith(f"{token} ") and re.search(r"@127\.0\.0\.[23]:" + re.escape(str(token)), line)
    ]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_running_it_again_changes_nothing_of_the_token_and_starts_anew(launched: Launched) -> None:
    before = (launched.home / ".ray" / "auth_token").read_text()
    done = launched.ray("up", "-y", "--no-config-cache", "--no-restart", str(launched.config))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (launched.home / ".ray" / "auth_token").read_text() == before
    assert (launched.home / ".bashrc").read_text().count(".regraft.sh") == 1
