"""Ray's cluster launcher accepts cluster.yaml, and the variants that its first lines make of it."""

from __future__ import annotations

import copy
import re
import socket
import subprocess
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from support.paths import ROOT

FILE = ROOT / "cluster.yaml"
TEXT = FILE.read_text()
PROVIDERS = ("aws", "gcp", "azure", "local")


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on network access: validation needs none."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def document(provider: str) -> dict[str, Any]:
    """Return the configuration for a provider, made by the command in the file's first lines."""
    text = TEXT
    if provider != "aws":
        (command,) = re.findall(rf"^#   (sed .*s/\^#{provider} //' cluster\.yaml) >", TEXT, re.MULTILINE)
        text = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = yaml.safe_load(text)
    assert found["provider"]["type"] == provider
    return found


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Prepare and validate the configuration as `ray up` does before it calls the cloud."""
    ready: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


@pytest.mark.parametrize("provider", PROVIDERS)
def test_ray_accepts_it(provider: str) -> None:
    ready = prepared(document(provider))
    assert ready["cluster_synced_files"] == ["~/.ray/auth_token"]
    assert (
        len(ready["head_setup_commands"])
        == len(ready["worker_setup_commands"])
        == len(document(provider)["setup_commands"]) + 1
    )


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_ray_does_not_know_is_refused(provider: str) -> None:
    with pytest.raises(Exception, match="idle_timeout_minute"):
        prepared({**document(provider), "idle_timeout_minute": 5})


@pytest.mark.parametrize("provider", ("aws", "gcp", "azure"))
def test_nobody_works_on_the_head_and_gpus_are_spot(provider: str) -> None:
    config = prepared(document(provider))
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0 and types["head"]["max_workers"] == 0
    assert "spot" in yaml.safe_dump(types["gpu"]["node_config"]).lower()
    assert "spot" not in yaml.safe_dump([types["head"], types["cpu"]]).lower()
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["cpu"]["min_workers"] == types["gpu"]["min_workers"] == 0


def test_what_is_mounted_is_there_and_is_no_whole_checkout() -> None:
    mounts = document("aws")["file_mounts"]
    for place in mounts.values():
        assert (ROOT / place).exists()
        assert (ROOT / place) != ROOT, "Ray reads everything below it, the environment and the history too"


def test_the_launcher_sets_token_authentication_on_every_node_before_ray_starts() -> None:
    config = document("aws")
    assert "RAY_AUTH_MODE=token" in config["setup_commands"][0]
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert command.startswith(". ~/.regraft.sh; ")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_no_secret_is_written() -> None:
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|(SECRET|PASSWORD|TOKEN)\w*\s*[=:]\s*['\"]?\w", TEXT
    )
