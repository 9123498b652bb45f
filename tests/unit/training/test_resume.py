"""A killed run ends as if it had not been killed, and a damaged checkpoint counts as if it had never existed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.data.sampler import batches
from regraft.data.snapshot import open_snapshot
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints, ranked
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from support.processes import in_child, train_counted
from support.tiny import document

STEPS = 16  # 60 rows, batches of 8, 2 epochs
KILLS = sorted(random.Random(2026).sample(range(STEPS), 10))


def spec_in(folder: Path, **changes: Any) -> dict[str, Any]:
    return document(folder, checkpoint_steps=3, keep=2, **changes)


def delta(written: dict[str, Any]) -> bytes:
    store = open_store(written["store"])
    version = Registry(store).version("tiny", "latest")
    return store.get(f"{version.prefix}delta.safetensors")


def last_state(written: dict[str, Any]) -> dict[str, Any]:
    store = open_store(written["store"])
    saved = Checkpoints(store, RunSpec.resolve(written).run).listed()[-1]
    state: dict[str, Any] = json.loads(store.get(f"{saved.prefix}state.json"))
    return {key: value for key, value in state.items() if key != "seconds"}


def last_tensors(written: dict[str, Any]) -> tuple[bytes, bytes]:
    store = open_store(written["store"])
    saved = Checkpoints(store, RunSpec.resolve(written).run).listed()[-1]
    return tuple(store.get(f"{saved.prefix}{name}.safetensors") for name in ("delta", "optimizer"))  # type: ignore[return-value]


def reference_order(written: dict[str, Any]) -> list[list[int]]:
    spec = RunSpec.resolve(written)
    store = open_store(written["store"])
    fingerprint = next(stat.key.split("/")[1] for stat in store.list("data/"))
    rows = open_snapshot(store, fingerprint).train
    epochs = [batches(spec.training.seed, epoch, rows.lengths, 8, bucketing=True) for epoch in range(2)]
    return [batch.tolist() for epoch in epochs for batch in epoch]


def effective(row_log: Path) -> list[list[int]]:
    """The rows of each step as the surviving state saw them; every attempt must go on without a gap."""
    steps: dict[int, list[int]] = {}
    attempt, expected = "", 0
    for line in row_log.read_text().splitlines():
        process, step, *rows = line.split()
        number = int(step)
        assert process != attempt or number == expected, "a step was left out or repeated within one attempt"
        assert number <= len(steps), "a resumed run went on beyond what had been trained"
        steps[number] = [int(row) for row in rows]
        attempt, expected = process, number + 1
    return [steps[number] for number in sorted(steps)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight")
    written = spec_in(folder)
    assert in_child(train_counted, written, str(folder / "journal")) == 0
    return written


def test_every_row_reaches_the_optimizer_once_an_epoch_in_the_reference_order(uninterrupted: dict[str, Any]) -> None:
    row_log = Path(uninterrupted["store"]).parent / "journal"
    order = effective(row_log)
    assert order == reference_order(uninterrupted)
    for epoch in (order[:8], order[8:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(60))


@pytest.mark.slow
def test_ten_kills_leave_a_bit_identical_delta_optimizer_and_metric_series(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(uninterrupted["store"]).parent
    written = {**uninterrupted, "store": str(tmp_path / "store")}
    row_log = tmp_path / "journal"
    for step in KILLS:
        assert in_child(train_counted, written, str(row_log), step) == -9
    assert in_child(train_counted, written, str(row_log)) == 0
    assert delta(written) == delta(uninterrupted)
    assert last_tensors(written) == last_tensors(uninterrupted)
    assert last_state(written) == last_state(uninterrupted)
    assert effective(row_log) == effective(source / "journal")


@pytest.mark.parametrize(
    "method",
    [
        "lora",
        pytest.param({"type": "freeze", "depth": 1}, marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("feature-extraction", "bitfit", "ia3")),
    ],
)
def test_a_killed_run_of_any_method_ends_bit_identical(method: Any, tmp_path: Path) -> None:
    straight = spec_in(tmp_path / "a", method=method)
    assert in_child(train_counted, straight, str(tmp_path / "ja")) == 0
    killed = {**straight, "store": str(tmp_path / "b-store")}
    assert in_child(train_counted, killed, str(tmp_path / "jb"), 10) == -9
    assert in_child(train_counted, killed, str(tmp_path / "jb")) == 0
    assert delta(killed) == delta(straight)


def damage_truncate(folder: Path, _: Path) -> None:
    path = folder / "delta.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(folder: Path, _: Path) -> None:
    path = folder / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_delete(folder: Path, _: Path) -> None:
    (folder / "state.json").unlink()


def damage_swap(folder: Path, other: Path) -> None:
    (folder / "delta.safetensors").write_bytes((other / "delta.safetensors").read_bytes())


def damage_manifest(folder: Path, other: Path) -> None:
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        *(
            pytest.param(d, marks=pytest.mark.slow)
            for d in (damage_swap, damage_truncate, damage_delete, damage_manifest)
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_run_ends_as_if_it_had_never_existed(
    damage: Any, uninterrupted: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = {**uninterrupted, "store": str(tmp_path / "store")}
    assert in_child(train_counted, written, str(tmp_path / "journal"), 13) == -9
    store = open_store(written["store"])
    run = RunSpec.resolve(written).run
    before, newest = Checkpoints(store, run).listed()[-2:]
    damage(Path(written["store"]) / newest.prefix, Path(written["store"]) / before.prefix)
    refused: list[str] = []
    found = Checkpoints(store, run).latest(tmp_path / "look", lambda error: refused.append(str(error)))
    assert found is not None and found[0].step == before.step
    assert len(refused) == 1 and newest.prefix.strip("/").rsplit("/", 1)[-1] in refused[0]
    assert in_child(train_counted, written, str(tmp_path / "journal")) == 0
    assert delta(written) == delta(uninterrupted)
    assert last_state(written) == last_state(uninterrupted)


def test_a_damaged_last_checkpoint_is_trained_again_and_the_good_copy_registered(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    store_folder = tmp_path / "store"
    shutil.copytree(uninterrupted["store"], store_folder)
    written = {**uninterrupted, "store": str(store_folder)}
    store, run = open_store(written["store"]), RunSpec.resolve(written).run
    # As if the driver had died before it registered: the run is not finished, its last checkpoint is damaged.
    shutil.rmtree(store_folder / "models")
    (store_folder / "runs" / run / "metrics.jsonl").unlink()
    Runs(store).update(run, state="running")
    newest = Checkpoints(store, run).listed()[-1]
    assert newest.step == STEPS and newest.meta["metrics"]
    damage_flip(store_folder / newest.prefix, store_folder)
    for _ in range(2):  # and the same command again finds it finished
        assert in_child(train_counted, written, str(tmp_path / "journal")) == 0
        assert delta(written) == delta(uninterrupted)
    assert [saved.step for saved in Checkpoints(store, run).listed()].count(STEPS) >= 1
    series = [Runs(open_store(spec["store"])).read(run, "metrics.jsonl") for spec in (written, uninterrupted)]
    assert series[0] == series[1]


def test_a_run_whose_best_checkpoint_is_damaged_registers_the_next_best(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    store_folder = tmp_path / "store"
    shutil.copytree(uninterrupted["store"], store_folder)
    written = {**uninterrupted, "store": str(store_folder)}
    store, run = open_store(written["store"]), RunSpec.resolve(written).run
    best = ranked(Checkpoints(store, run).listed(), "accuracy", "max")
    assert len(best) == 2
    shutil.rmtree(store_folder / "models")
    Runs(store).update(run, state="running")
    damage_truncate(store_folder / best[0].prefix, store_folder)
    assert in_child(train_counted, written, str(tmp_path / "journal")) == 0
    good = store.get(f"{best[1].prefix}delta.safetensors")
    assert delta(written) in (good, delta(uninterrupted))
