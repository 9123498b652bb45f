"""`gc --verify` removes kept outputs that do not agree, and nothing else; `gc --cache` what this machine keeps idle."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import regraft as package
from doubles.fake_training import Regraft
from regraft.bases.locate import locate
from regraft.store.checkpoints import Checkpoints
from regraft.store.machine_cache import cached_folders
from regraft.store.manifest import MANIFEST, commit
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.trunk.feature_store import ShardWriter
from support.tiny import document, tiny_bert


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def spec_in(folder: Path) -> dict[str, Any]:
    written = document(folder, method={"type": "freeze", "depth": 1}, rows=24, eval_rows=9)
    return written | {"compute": {"workers": 0, "cpus": 1, "trunk": "disk"}}


def shards(written: dict[str, Any]) -> set[str]:
    return {str(path.parent) for path in Path(written["store"]).glob(f"features/*/*/{MANIFEST}")}


@pytest.mark.parametrize("damage", ["flipped", "missing", "manifest", "misshapen"])
def test_a_shard_that_is_not_as_it_was_written_is_removed(damage: str, tmp_path: Path, regraft: Regraft) -> None:
    written = spec_in(tmp_path)
    package.train(written)
    [good] = shards(written)
    bad = Path(good).parent / ("0" * 32)
    store, prefix = open_store(written["store"]), f"features/{bad.parent.name}/{bad.name}"
    data = (Path(good) / "features.arrow").read_bytes()
    if damage == "misshapen":
        with ShardWriter(store, prefix, tmp_path, {}) as writer:
            writer.add(b"k" * 16, torch.zeros(3))
            writer._waiting["shape"][0] = [2]
    else:
        commit(store, prefix, {"features.arrow": data}, kind="features", meta={"run": "old"})
    if damage == "flipped":
        before = (bad / "features.arrow").stat()
        (bad / "features.arrow").write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
        os.utime(bad / "features.arrow", ns=(before.st_atime_ns, before.st_mtime_ns))
    elif damage == "missing":
        (bad / "features.arrow").unlink()
    elif damage == "manifest":
        (bad / MANIFEST).write_bytes(b"{}")
    assert regraft("gc", "--store", written["store"]).code == 0 and str(bad) in shards(written), "not by default"
    result = regraft("gc", "--verify", "--store", written["store"], "--json")
    assert result.code == 0 and f"removed {prefix}" in result.err
    assert shards(written) == {good} and result.document["verified_bytes"] > 0


def test_a_run_s_outputs_are_computed_again_and_wrong_ones_removed(
    tmp_path: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, add, count = spec_in(tmp_path), ShardWriter.add, [0]

    def one_wrong(self: ShardWriter, row: bytes, values: torch.Tensor) -> None:
        add(self, row, values + (count[0] == 7))
        count[0] += 1

    first = package.train(written)
    [good] = shards(written)
    fine = regraft("gc", "--verify", first.run, "--store", written["store"])
    assert "33 rows of run" in fine.out and shards(written) == {good}
    (tmp_path / "aside").mkdir()
    os.rename(good, tmp_path / "aside" / "shard")
    monkeypatch.setattr(ShardWriter, "add", one_wrong)
    victim = package.train({**written, "name": "victim"})
    assert len(shards(written)) == 1
    os.rename(tmp_path / "aside" / "shard", good)
    result = regraft("gc", "--verify", victim.run, "--store", written["store"])
    assert result.code == 0, result.err
    assert f"written by run {victim.run}" in result.out, result.out
    assert shards(written) == {good}, "the same rows of another run stay"
    assert "removed features" not in regraft("gc", "--verify", victim.run, "--store", written["store"]).out
    assert regraft("gc", "--verify", "nothing", "--store", written["store"]).code == 2


def test_the_machine_s_cache_is_listed_and_what_is_idle_removed_when_asked(
    cache: Path, tmp_path: Path, regraft: Regraft
) -> None:
    store = open_store(str(tmp_path / "store"))
    store.put("models/x", b"")
    for name in ("idle", "used"):
        (cache / "versions" / name).mkdir(parents=True)
        (cache / "versions" / name / "file").write_bytes(b"x" * 1000)
    long_ago = time.time() + 3 * 86400
    listed = regraft("gc", "--store", store.url, "--json").document
    assert listed["cache_bytes"] > 2000
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("regraft.store.machine_cache.time.time", lambda: long_ago)
        assert "regraft gc --cache" in regraft("gc", "--store", store.url).out
        assert (cache / "versions" / "idle").exists()
        result = regraft("gc", "--cache", "--store", store.url, "--json")
    assert result.code == 0 and not (cache / "versions" / "idle").exists()


def test_rows_that_nothing_names_go_when_asked(
    tmp_path: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = document(tmp_path, rows=24, eval_rows=9, epochs=1)
    first = package.train(spec)
    (tmp_path / "train.csv").write_text((tmp_path / "eval.csv").read_text())
    second = package.train(spec)
    assert regraft("runs", "delete", first.run, "--yes", "--store", spec["store"]).code == 0
    store = open_store(spec["store"])
    named = (Runs(store).find(second.run) or {})["data"]
    rows = {stat.key.split("/")[1] for stat in store.list("data/")}
    assert len(rows) == 2
    assert regraft("gc", "--data", "--store", spec["store"]).code == 0
    assert {stat.key.split("/")[1] for stat in store.list("data/")} == rows, "they are younger than a day"
    for path in Path(spec["store"]).glob("data/*/*"):
        os.utime(path, (1e9, 1e9))
    assert "regraft gc --data" in regraft("gc", "--store", spec["store"]).out
    store.put("runs/broken/run.json", b"{")
    assert regraft("gc", "--data", "--store", spec["store"], "--json").document["unneeded"]["data"] == []
    store.delete(["runs/broken/run.json"])
    result = regraft("gc", "--data", "--store", spec["store"], "--json")
    assert result.code == 0 and result.document["freed_bytes"] > 0
    assert {stat.key.split("/")[1] for stat in store.list("data/")} == {named}
    assert package.train(spec).already


def test_checkpoints_of_registered_runs_go_when_asked_and_their_versions_answer(
    tmp_path: Path, regraft: Regraft
) -> None:
    spec = document(tmp_path, rows=24, eval_rows=9, epochs=1)
    first = package.train(spec)
    store = open_store(spec["store"])
    Runs(store).update("stopped", state="stopped", model="tiny")
    Checkpoints(store, "stopped").save(3, {"delta.safetensors": b"d"}, {"metrics": {}})
    answers = package.load("tiny", store=spec["store"]).predict(["my lamp is off"])
    assert "regraft gc --checkpoints" in regraft("gc", "--store", spec["store"]).out
    assert Checkpoints(store, first.run).listed()
    delta = store.get("models/tiny/v1/delta.safetensors")
    store.put("models/tiny/v1/delta.safetensors", b"damaged")
    spared = regraft("gc", "--checkpoints", "--store", spec["store"])
    assert f"{first.run} stays" in spared.out and Checkpoints(store, first.run).listed(), "the only whole copy"
    store.put("models/tiny/v1/delta.safetensors", delta)
    result = regraft("gc", "--checkpoints", "--store", spec["store"], "--json")
    assert result.code == 0 and not Checkpoints(store, first.run).listed()
    assert Checkpoints(store, "stopped").listed(), "it may go on"
    assert package.load("tiny", store=spec["store"]).predict(["my lamp is off"]) == answers
    assert package.train(spec).already


def test_gc_removes_copies_that_no_process_uses_and_keeps_the_others(
    tmp_path: Path, cache: Path, regraft: Regraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, unused = locate(str(tiny_bert(tmp_path / "a"))), locate(str(tiny_bert(tmp_path / "b", seed=8)))
    gone = unused.path
    del unused
    open_store(str(tmp_path / "store")).put("models/x", b"")
    command = ("gc", "--cache", "--store", str(tmp_path / "store"))
    assert regraft(*command).code == 0 and gone.is_dir(), "it was used a moment ago"
    later = time.time() + 3 * 86400
    monkeypatch.setattr("regraft.store.machine_cache.time.time", lambda: later)
    result = regraft(*command)
    assert f"removed {gone}" in result.out and f"{used.path} stays" in result.out
    assert not gone.exists() and used.path.is_dir()
    assert locate(str(tmp_path / "b")).path == gone, "it is copied again"


def test_looking_at_the_machine_s_cache_is_no_use_of_it(cache: Path) -> None:
    folder = cache / "versions" / "one"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x")
    os.utime(folder, (0, 0))
    time.sleep(0.2)
    for _ in range(2):
        [found] = cached_folders()
        assert found.idle_s >= 0.2
