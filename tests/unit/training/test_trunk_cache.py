"""A run whose frozen part is computed once equals the run that computes it in every epoch."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps
from safetensors.torch import load

from regraft.contracts import Note, TrunkProgress
from regraft.errors import StoreError, Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.tasks.text_classification import TextClassification
from regraft.training.session import train_local
from regraft.trunk import cost_model, feature_store
from regraft.trunk.feature_store import ShardWriter
from support.image_bases import coloured_document
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document, tickets

FREEZE = {"type": "freeze", "depth": 1}


def spec_in(folder: Path, trunk: str, method: Any = FREEZE, **changes: Any) -> dict[str, Any]:
    """SGD, since AdamW amplifies what rounding leaves where a gradient is zero."""
    written = document(folder, method=method, **{"optimizer": "sgd", "lr": 0.05, "epochs": 3, **changes})
    return {**written, "compute": {**written["compute"], "trunk": trunk}}


def beside(written: dict[str, Any], trunk: str, store: Path) -> dict[str, Any]:
    return {**written, "store": str(store), "compute": {**written["compute"], "trunk": trunk}}


def delta(written: dict[str, Any]) -> dict[str, torch.Tensor]:
    store = open_store(written["store"])
    return load(store.get(f"{Registry(store).version(written['name'], 'latest').prefix}delta.safetensors"))


def curve(written: dict[str, Any]) -> list[tuple[int, str, float]]:
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl").decode()
    lines = [json.loads(line) for line in text.splitlines()]
    kept = [(line["step"], key, line[key]) for line in lines for key in ("loss", "eval_loss") if key in line]
    assert kept
    return kept


def same_run(one: dict[str, Any], two: dict[str, Any], within: float = 1e-5) -> None:
    for (step, key, value), (step_two, key_two, value_two) in zip(curve(one), curve(two), strict=True):
        assert (step, key) == (step_two, key_two)
        assert value == pytest.approx(value_two, abs=within), f"{key} at step {step}"
    left, right = delta(one), delta(two)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.allclose(tensor, right[name], atol=within), name


@pytest.mark.parametrize("trunk", ["disk", "memory"])
@pytest.mark.parametrize("method", [FREEZE, {"type": "freeze", "depth": "all"}, "feature-extraction"])
def test_the_same_losses_and_the_same_delta(trunk: str, method: Any, tmp_path: Path) -> None:
    whole = spec_in(tmp_path, "off", method)
    kept = beside(whole, trunk, tmp_path / "kept")
    for written in (whole, kept):
        train_local(RunSpec.resolve(written))
    same_run(whole, kept)
    assert bool(list(open_store(kept["store"]).list("features/"))) == (trunk == "disk")


def test_dropout_of_the_suffix_falls_as_it_would_without(tmp_path: Path) -> None:
    whole = spec_in(tmp_path, "off", dropout=0.3)
    kept = beside(whole, "disk", tmp_path / "kept")
    for written in (whole, kept):
        train_local(RunSpec.resolve(written))
    same_run(whole, kept)


def rows_computed(written: dict[str, Any], **more: Any) -> int:
    seen: list[int] = []

    def progress(event: Any) -> None:
        if isinstance(event, TrunkProgress):
            seen.append(event.total)

    train_local(RunSpec.resolve({**written, **more}), progress=progress)
    return max(seen, default=0)


def test_a_second_run_computes_nothing_and_new_rows_alone(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "disk")
    assert rows_computed(written) == 90
    assert rows_computed({**written, "training": {**written["training"], "lr": 0.01}}) == 0
    deeper = {**written, "method": {"type": "freeze", "depth": "all"}}
    assert rows_computed(deeper) == 90
    lines = (tmp_path / "train.csv").read_text().splitlines()
    more = tickets(tmp_path / "more.csv", 10, seed=9).read_text().splitlines()[1:]
    (tmp_path / "train.csv").write_text("\n".join([*lines, *more]) + "\n")
    # Every batch with a new row is computed completely, so that values depend on the data alone.
    assert 10 <= rows_computed(written, name="another") <= 100 - 20


def test_a_killed_run_continues_with_its_trunk_to_the_same_bits(tmp_path: Path) -> None:
    straight = spec_in(tmp_path / "a", "disk", checkpoint_steps=3)
    assert in_child(train_counted, straight, str(tmp_path / "ja")) == 0
    killed = {**straight, "store": str(tmp_path / "b")}
    assert in_child(train_counted, killed, str(tmp_path / "jb"), 10) == -9
    assert in_child(train_counted, killed, str(tmp_path / "jb")) == 0
    one, two = delta(straight), delta(killed)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_images_are_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = coloured_document(tmp_path, each={"train": 40, "eval": 10}, epochs=4, batch_size=24)
    written["compute"] |= {"trunk": "off"}
    train_local(RunSpec.resolve(written))
    count = [0]

    def counted(image: Any, **options: Any) -> Any:
        count[0] += 1
        return upright(image, **options)

    upright = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", counted)
    kept = beside(written, "memory", tmp_path / "kept")
    train_local(RunSpec.resolve(kept))
    # Once to be computed, once to be laid out (shape and label); a fixed number to find the cut, and for the plan.
    assert count[0] < 2 * 150 + 180 < 4 * 150
    same_run(written, kept)


def test_what_changes_the_frozen_part_is_refused_with_a_trunk_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"compute\.trunk: disk is written, but nothing is frozen"):
        train_local(RunSpec.resolve(spec_in(tmp_path, "disk", "full")))


def test_a_plan_is_measured_once_and_kept_with_the_run(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "auto")
    train_local(RunSpec.resolve(written))
    plan = Runs(open_store(written["store"])).find(RunSpec.resolve(written).run)["trunk"]
    assert plan["where"] in ("disk", "memory", "recompute") and plan["compute_s"] > 0 and plan["bytes"] > 0


def rerun(written: dict[str, Any]) -> list[dict[str, Any]]:
    """Train again on the same store without the first run's documents, but with its features; return the events."""
    shutil.rmtree(Path(written["store"]) / "runs")
    events: list[dict[str, Any]] = []
    train_local(RunSpec.resolve(written), progress=events.append)
    return events


def notes(events: list[dict[str, Any]]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Note))


def test_damaged_features_are_passed_over_and_computed_again(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "disk")
    train_local(RunSpec.resolve(written))
    (shard,) = Path(written["store"]).glob("features/*/*/features.arrow")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    events = rerun(written)
    assert max(event.total for event in events if isinstance(event, TrunkProgress)) == 90
    assert "features.arrow does not have the bytes" in notes(events)


def test_values_that_another_model_wrote_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path, "auto")
    monkeypatch.setattr(cost_model, "DISK_S_PER_BYTE", 0.0)
    train_local(RunSpec.resolve(written))
    monkeypatch.setattr(ShardWriter, "add", spoiling(ShardWriter.add))
    shutil.rmtree(Path(written["store"]) / "features")
    rerun(written)
    monkeypatch.undo()
    monkeypatch.setattr(cost_model, "DISK_S_PER_BYTE", 0.0)
    assert "from those that this model computes" in notes(rerun(written))


def spoiling(add: Any) -> Any:
    return lambda self, row, values: add(self, row, values + 1)


def broken(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("a module of the user's own")


@pytest.mark.parametrize(
    "step", ["cut_check.find_cut", "trunk_cache.choose_placement", "trunk_cache.open_features", "trunk_cache.fill"]
)
def test_nothing_that_goes_wrong_ends_a_run_that_did_not_ask(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spec_in(tmp_path, "off")
    train_local(RunSpec.resolve(whole))
    kept = beside(whole, "auto", tmp_path / "kept")
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(f"regraft.training.{step}", broken)
    train_local(RunSpec.resolve(kept), progress=events.append)
    assert "computed again in every epoch: keeping it failed (KeyError: " in notes(events)
    same_run(whole, kept)
    with pytest.raises(Unsupported, match=r"disk is written, but keeping it failed \(KeyError"):
        train_local(RunSpec.resolve(beside(whole, "disk", tmp_path / "asked")))


def test_a_full_disk_leaves_nothing_behind_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(store: Any, prefix: str, files: Any, **more: Any) -> None:
        store.put(f"{prefix}/features.arrow", b"half")
        raise StoreError("no space left")

    monkeypatch.setattr(feature_store, "commit", full)
    monkeypatch.setattr(cost_model, "DISK_S_PER_BYTE", 0.0)
    written = spec_in(tmp_path, "auto")
    events: list[dict[str, Any]] = []
    train_local(RunSpec.resolve(written), progress=events.append)
    assert "no space left" in notes(events)
    assert not list(open_store(written["store"]).list("features/"))


def test_a_task_that_reads_otherwise_in_training_is_computed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As masked-language models do, which hide words at random."""

    def masking(task: Any, row: Any, context: Any, *, train: bool) -> Any:
        example = encode(task, row, context, train=train)
        if train:
            example["input_ids"] = [random.choice((number, 4)) for number in example["input_ids"]]
        return example

    encode = TextClassification.encode
    monkeypatch.setattr(TextClassification, "encode", masking)
    events: list[dict[str, Any]] = []
    train_local(RunSpec.resolve(spec_in(tmp_path, "auto")), progress=events.append)
    assert "reads rows otherwise when it trains" in notes(events)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 3},
        {"eval_steps": 3, "early_stopping": 1},
        {"bucketing": True},
        {"losses": [{"type": "l2-sp"}]},
        {"activation_checkpointing": True},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_the_same_losses_whatever_else_the_run_does(changes: dict[str, Any], tmp_path: Path) -> None:
    compute = {name: changes.pop(name) for name in ("activation_checkpointing", "precision") if name in changes}
    losses = {name: changes.pop(name) for name in ("losses",) if name in changes}
    whole = spec_in(tmp_path, "off", **changes) | losses
    whole["compute"] |= compute
    kept = beside(whole, "disk", tmp_path / "kept")
    for written in (whole, kept):
        train_local(RunSpec.resolve(written))
    rough = compute.get("precision") == "bf16"  # what is kept was computed in another batch, and so rounded otherwise
    same_run(whole, kept, 5e-3 if rough else 1e-5)


@pytest.mark.slow
def test_two_ranks_fill_one_trunk(tmp_path: Path) -> None:
    whole = spec_in(tmp_path, "off")
    kept = beside(whole, "disk", tmp_path / "kept")
    for written in (whole, kept):
        assert in_child(on_ranks, 2, written, str(tmp_path / "journal")) == 0
    same_run(whole, kept)
    assert len(list(Path(kept["store"]).glob("features/*/*/features.arrow"))) == 2
