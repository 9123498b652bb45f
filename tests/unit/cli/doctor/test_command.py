"""`regraft doctor` finds what is wrong with a machine or a store, prints what to do, and fails only then."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest
import yaml

from doubles.fake_training import DOCUMENT, Regraft
from regraft.cli.doctor import command, machine_checks, probes
from regraft.cli.doctor.finding import Check, Finding
from regraft.errors import StoreError
from regraft.store.folder import FolderStore


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Check]]:
    """Return the list of checks that run; the real ones are tested one by one below."""
    chosen: list[tuple[str, Check]] = []
    monkeypatch.setattr(command, "checks", lambda store, address: chosen)
    return chosen


def test_one_failure_makes_the_code_1(regraft: Regraft, only: list[tuple[str, Check]]) -> None:
    only.append(("a", lambda: [Finding("a", "ok", "is fine"), Finding("b", "warn", "is low", "add some")]))
    assert regraft("doctor").code == 0

    def breaks() -> list[Finding]:
        raise RuntimeError("no idea")

    only.append(("c", breaks))
    only.append(("d", lambda: [Finding("d", "fail", "is missing", "install it")]))
    result = regraft("doctor")
    assert result.code == 1
    lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert ["ok", "a", "is fine"] in lines
    assert ["fail", "c", "RuntimeError: no idea"] in lines
    assert "→ install it" in result.out
    assert "2 failed, 1 to look at, 1 fine" in result.out
    document = regraft("doctor", "--json").document
    assert [finding["status"] for finding in document["findings"]] == ["ok", "warn", "fail", "fail"]


@pytest.mark.parametrize("written", ["", "other"])
def test_the_store_that_is_looked_at_is_the_specs_unless_another_is_named(
    written: str, tmp_path: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(command, "checks", lambda store, address: asked.append(store) or [])
    monkeypatch.delenv("REGRAFT_STORE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**DOCUMENT, "store": str(tmp_path / "specs")}))
    words = ["--store", str(tmp_path / written)] if written else []
    assert regraft("doctor", tmp_path / "spec.yaml", *words).code == 0
    assert asked == [str(tmp_path / (written or "specs"))]


@pytest.mark.parametrize(
    "check",
    [
        machine_checks.processor,
        machine_checks.memory,
        machine_checks.shared_memory,
        machine_checks.gpu,
        machine_checks.token,
    ],
)
def test_every_look_at_the_machine_finds_something(check: Check) -> None:
    assert all(finding.found for finding in check())


def test_a_version_that_is_not_allowed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "ray[train]>=1", "regraft-missing>=1", "moto>=5; extra == 'test'"]
    monkeypatch.setattr(machine_checks, "requires", lambda name: wanted)
    monkeypatch.setattr(machine_checks, "_REQUIRED", ("torch", "ray", "regraft-missing"))
    found = {finding.name: finding for finding in machine_checks.versions()}
    assert (found["torch"].status, found["torch"].todo) == ("fail", "pip install 'torch>=99'")
    assert found["ray"].status == "ok"
    assert "is not installed" in found["regraft-missing"].found


@pytest.mark.parametrize(("mode", "status"), [(None, "ok"), ("token", "ok"), ("disabled", "warn"), ("tokn", "fail")])
def test_a_ray_without_a_token_is_reported(mode: str | None, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert [finding.status for finding in machine_checks.token()] == [status]


def test_more_threads_than_cpus_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "cpus", lambda: 0.5)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    (finding,) = machine_checks.processor()
    assert finding.status == "warn"
    assert "OMP_NUM_THREADS=1" in finding.todo


def test_little_memory_and_disk_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probes, "memory", lambda: (10**10, 10**10 - 10**8))
    assert [finding.status for finding in machine_checks.memory()] == ["warn"]
    monkeypatch.setattr(machine_checks, "_GB", 10**15)
    assert {finding.status for finding in machine_checks.disk(str(tmp_path / "not" / "there"))} == {"warn"}
    assert not [finding for finding in machine_checks.disk("s3://bucket") if finding.name == "disk: store"]


def test_a_good_store_passes_and_keeps_nothing(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    assert {finding.status for finding in machine_checks.store_round_trip(str(tmp_path))} == {"ok"}
    assert [stat.key for stat in store.list()] == []


class Overwrites(FolderStore):
    """A server that ignores If-None-Match."""

    def put_if_absent(self, key: str, data: bytes) -> None:
        self.put(key, data)


class Replaces(FolderStore):
    """A server that ignores If-Match."""

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        self.put(key, data)


@pytest.mark.parametrize(("kind", "wording"), [(Overwrites, "If-None-Match"), (Replaces, "If-Match")])
def test_a_server_that_ignores_conditions_is_refused(kind: type[FolderStore], wording: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=wording):
        machine_checks.conditional_writes(kind(str(tmp_path)))
    assert not [path for path in tmp_path.rglob("*") if "check" in path.name]


def test_a_store_that_cannot_be_written_fails(
    regraft: Regraft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    url = str(tmp_path / "file/store")
    monkeypatch.setattr(
        command, "checks", lambda store, address: [("store", lambda: machine_checks.store_round_trip(store))]
    )
    result = regraft("doctor", "--store", url)
    assert result.code == 1
    assert result.out.startswith("fail  store")


def test_two_processes_meet() -> None:
    seconds, trouble = probes.ring()
    assert trouble == ""
    assert seconds > 0


def test_a_ring_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert probes.ring()[1] == "it ended without an error message"


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers as a Ray dashboard does, or as one that requires a token."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/api/version" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("status", "wording"), [(200, ""), (401, "token"), (500, "500")])
def test_a_cluster_is_asked_over_its_job_api(status: int, wording: str) -> None:
    handler = type("Answers", (Dashboard,), {"status": status})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        trouble = probes.connection_error(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert wording in trouble if wording else trouble == ""


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "127.0.0.1:1", "ray://127.0.0.1:1", "http://", "auto"])
def test_an_address_where_nothing_is_fails(address: str) -> None:
    assert "does not answer" in probes.connection_error(address, timeout_s=1)
