"""`regraft serve` and `regraft key`: arguments, specs, refusals, and an endpoint in this process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from doubles.fake_training import Regraft
from regraft.cli import dispatch
from regraft.cli.parser import build
from regraft.cli.serve import spec_of
from regraft.endpoint.api_keys import hashed, read
from regraft.errors import SpecError
from regraft.spec.serve import ServeSpec
from support.tiny import tiny_bert
from unit.serving.tiny import publish


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a store that holds `tiny`."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    tiny_bert(tmp_path / "base")
    publish(tmp_path / "regraft-store", tmp_path / "base", "text-classification", "full")
    return tmp_path


def spec(*written: str) -> ServeSpec:
    return spec_of(build().parse_args(["serve", *written]))


def test_options_and_files_become_one_spec(tmp_path: Path) -> None:
    made = spec("tiny@v1", "--port", "9000", "--min-replicas", "0", "--precision", "auto", "--plugins", "mine")
    assert (made.models, made.port, made.precision) == (("tiny@v1",), 9000, "auto")
    assert (made.scaling.min_replicas, made.scaling.max_replicas) == (0, 1)
    assert made.plugins == (str(tmp_path / "mine"),)
    assert spec().models == ("*",)
    assert spec("a", "--replicas", "3").scaling.max_replicas == 3
    (tmp_path / "SERVE.yaml").write_text(yaml.safe_dump({"models": ["a"], "port": 7000, "limits": {"items": 2}}))
    made = spec("SERVE.yaml", "--port", "7001", "--max-replicas", "4")
    assert (made.models, made.port, made.limits.items, made.scaling.max_replicas) == (("a",), 7001, 2, 4)
    assert made.store == str(tmp_path / "regraft-store")
    (tmp_path / "SERVE.yaml").write_text("models: [a]\nscaling: {max_replicas: 8}\n")
    assert spec("SERVE.yaml", "--min-replicas", "2").scaling.max_replicas == 8


def test_all_that_is_wrong_with_a_spec_is_reported_at_once(tmp_path: Path, regraft: Regraft) -> None:
    (tmp_path / "s.yaml").write_text(
        "models: [a, b, A]\nprot: 1\nlimits: {item: 3}\nscaling: {min_replicas: 3, max_replicas: 2}\n"
    )
    result = regraft("serve", "s.yaml")
    assert result.code == 2
    for message in ("model name 'A'", "Did you mean 'port'?", "Did you mean 'items'?", "min_replicas is 3"):
        assert message in result.err
    for wrong, message in (
        ({"models": ["a", "a@v1"]}, "more than once"),
        ({"models": []}, "no model is written"),
        ({"models": ["a"], "aliases": {"live": {"v1": 0.9, "v2": 0.2}}}, "add up to 1.1"),
        ({"models": ["a", "b"], "aliases": {"live": {"v1": 1.0}}}, "write model@live"),
        ({"models": ["a"], "aliases": {"live": {"new": 1.0}}}, "allowed are versions"),
    ):
        with pytest.raises(SpecError, match=message):
            ServeSpec.resolve(wrong)


@pytest.mark.parametrize(
    "more, message",
    [
        (["tinny"], "did you mean 'tiny'?"),
        (["tiny@v7"], "there are v1"),
        (["tiny", "--host", "0.0.0.0", "--replicas", "0"], "anybody could ask"),
        (["tiny", "--keys", "nowhere.yaml", "--replicas", "0"], "nowhere.yaml"),
        (["a.yaml", "tiny"], "names its models itself"),
        (["tiny", "--precision", "fp8"], "allowed are auto, fp32, bf16"),
        (["tiny", "--replicas", "0", "--address", "x:1"], "without Ray"),
        (["tiny", "--address", "http://head:8265"], "jobs/serve.py"),
        (["nowhere.yaml"], "there is no such file"),
    ],
)
def test_what_is_asked_wrong_ends_before_anything_starts(
    more: list[str], message: str, there: Path, regraft: Regraft
) -> None:
    result = regraft("serve", *more)
    assert result.code == 2, result.err
    assert message in result.err


def test_ray_is_asked_for_unless_there_are_no_replicas(
    there: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[ServeSpec, str | None]] = []

    @contextmanager
    def fake(spec: ServeSpec, address: str | None) -> Iterator[str]:
        asked.append((spec, address))
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, as soon as it is up
        yield "http://there"

    monkeypatch.setitem(dispatch.WORK, "serve", fake)
    result = regraft("serve", "tiny", "--address", "head:6379", "--min-replicas", "2")
    assert result.code in (0, 130)
    assert [(spec.models, spec.scaling.max_replicas, address) for spec, address in asked] == [
        (("tiny",), 2, "head:6379")
    ]


def test_an_endpoint_that_is_interrupted_while_it_comes_up_speaks_of_no_checkpoint(
    there: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def fake(spec: ServeSpec, address: str | None) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setitem(dispatch.WORK, "serve", fake)
    result = regraft("serve", "tiny")
    assert result.code == 130
    assert "interrupted; the endpoint is down" in result.err
    assert "checkpoint" not in result.err


def test_an_alias_may_be_the_spec_s_own(there: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def fake(spec: ServeSpec, address: str | None) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setitem(dispatch.WORK, "serve", fake)
    (there / "SERVE.yaml").write_text("models: [tiny@live]\naliases: {live: {v1: 1.0}}\n")
    assert regraft("serve", "SERVE.yaml").code == 130
    assert regraft("serve", "tiny@live").code == 2


def test_it_answers_and_ends_cleanly(there: Path) -> None:
    command = [sys.executable, "-m", "regraft", "serve", "tiny@v1", "--replicas", "0", "--port", "0", "--json"]
    running = subprocess.Popen(command, cwd=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        lines = []
        while not any("http://" in line for line in lines):
            lines.append(running.stderr.readline())
            assert running.poll() is None and len(lines) < 50, lines
        port = int(lines[-1].split()[0].rpartition(":")[2])
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        line.request("POST", "/models/tiny", json.dumps({"inputs": "my card"}), {"content-type": "application/json"})
        reply = line.getresponse()
        assert (reply.status, reply.headers["x-model-version"]) == (200, "v1")
        began = time.monotonic()
        os.kill(running.pid, signal.SIGTERM)
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert time.monotonic() - began < 20
    assert "Traceback" not in err
    message = json.loads(out)
    assert (message["url"], message["models"]) == (f"http://127.0.0.1:{port}", ["tiny@v1"])


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path, regraft: Regraft) -> None:
    result = regraft("key", "shop", "--keys", "keys.yaml", "--model", "a", "--model", "b")
    assert result.code == 0
    key = result.out.strip().splitlines()[-1]
    kept = (tmp_path / "keys.yaml").read_text()
    assert key not in kept
    (entry,) = read(kept, "keys.yaml")
    assert (entry.name, entry.sha256, entry.models) == ("shop", hashed(key), ("a", "b"))
    assert regraft("key", "shop", "--keys", "keys.yaml").code == 2
    assert regraft("key", "other", "--keys", "keys.yaml", "--json").document["name"] == "other"
    assert regraft("key", "third", "--keys", "keys.yaml", "--model", "No Model").code == 2
