"""Rows of another domain are read without labels, in an order of their own, and by all workers as one step."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from regraft.bases.adapted import Adapted
from regraft.data.sampler import batches, target_batches
from regraft.data.snapshot import open_snapshot
from regraft.errors import DataError, SpecError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document, tickets

ALL = ["coral", "mmd", "mcc", {"type": "dann", "width": 8}, {"type": "cdan", "width": 8}]


def spec_in(folder: Path, *losses: Any, store: str = "store", **changes: Any) -> dict[str, Any]:
    written = document(folder, rows=53, eval_rows=20, **{"dropout": 0.0, "epochs": 2, **changes})
    if not (folder / "target.csv").exists():
        tickets(folder / "target.csv", 29, seed=5)
    data = {**written["data"], "target": str(folder / "target.csv")}
    return {**written, "data": data, "losses": list(losses), "store": str(folder / store)}


def delta(written: dict[str, Any]) -> bytes:
    store = open_store(written["store"])
    return store.get(f"{Registry(store).version('tiny').prefix}delta.safetensors")


def losses(written: dict[str, Any]) -> list[float]:
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    return [line["loss"] for line in map(json.loads, text.decode().splitlines()) if "loss" in line]


def trained(written: dict[str, Any]) -> dict[str, Any]:
    train_local(RunSpec.resolve(written))
    return written


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of one process with every loss, made without interruption."""
    written = spec_in(tmp_path_factory.mktemp("target"), *ALL)
    assert in_child(train_counted, written, f"{written['store']}.log") == 0
    return written


def test_two_workers_give_the_losses_of_one(alone: dict[str, Any]) -> None:
    written = {**alone, "store": f"{alone['store']}-two"}
    on_ranks(2, written, f"{written['store']}.log")
    assert losses(written) == pytest.approx(losses(alone), abs=1e-5)
    assert len(losses(alone)) == 14


def test_a_killed_run_ends_bit_identical(alone: dict[str, Any]) -> None:
    written = {**alone, "store": f"{alone['store']}-killed"}
    assert in_child(train_counted, written, f"{written['store']}.log", 9) == -9
    assert in_child(train_counted, written, f"{written['store']}.log") == 0
    assert delta(written) == delta(alone)
    assert losses(written) == losses(alone)


def test_a_weight_of_zero_leaves_the_run_bit_identical(tmp_path: Path) -> None:
    plain = trained(spec_in(tmp_path, store="plain"))
    silent = [{"type": one, "weight": 0} for one in ("coral", "mmd", "mcc", "dann", "cdan")]
    assert delta(trained(spec_in(tmp_path, *silent))) == delta(plain)
    assert delta(trained(spec_in(tmp_path, "mcc", store="other"))) != delta(plain)


def test_a_column_of_labels_is_not_read(tmp_path: Path) -> None:
    first = trained(spec_in(tmp_path, "mcc"))
    with (tmp_path / "target.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    for name, changed in (
        ("none", [row[:1] for row in rows]),
        ("wrong", [rows[0], *([row[0], "?"] for row in rows[1:])]),
    ):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(changed)
        written = spec_in(tmp_path, "mcc", store=name)
        written["data"]["target"] = str(tmp_path / f"{name}.csv")
        assert delta(trained(written)) == delta(first)
    runs = Runs(open_store(first["store"]))
    (run,) = runs.list()
    snapshot = open_snapshot(open_store(first["store"]), str(runs.info(run.name).fields["data"]))
    assert snapshot.target is not None and len(snapshot.target) == 29
    assert "label" not in snapshot.target.row(0) and snapshot.labels == ("entry", "light", "money")


@pytest.mark.parametrize("trunk", ["memory", "disk"])
def test_kept_outputs_of_target_rows_give_the_same_losses(trunk: str, tmp_path: Path) -> None:
    written = spec_in(tmp_path, "coral", "mcc", method={"type": "freeze", "depth": 1}, epochs=1)
    kept = {**written, "store": f"{written['store']}-kept", "compute": {**written["compute"], "trunk": trunk}}
    kept["training"] = {**kept["training"], "epochs": 2}
    written["training"] = dict(kept["training"])
    assert losses(trained(kept)) == pytest.approx(losses(trained(written)), abs=1e-5)


def test_rows_of_the_target_come_once_an_epoch_in_batches_of_nearly_one_size() -> None:
    lengths = np.arange(83) % 13
    for bucketing in (False, True):
        order = target_batches(3, 1, lengths, 16, bucketing=bucketing)
        assert sorted(np.concatenate(order).tolist()) == list(range(83))
        assert {len(batch) for batch in order} == {13, 14}
        assert [batch.tolist() for batch in order] == [
            batch.tolist() for batch in target_batches(3, 1, lengths, 16, bucketing=bucketing)
        ]
    assert order[0].tolist() != batches(3, 1, lengths, 16, bucketing=True)[0].tolist()


def test_batch_norms_keep_their_statistics_in_both_domains() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    adapted = Adapted.__new__(Adapted)
    adapted.model, adapted.frozen_modules, adapted.fixed_statistics = model, (), True
    adapted.train_mode()
    assert [module.training for module in model] == [True, False, True]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(5, 2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data.target": None},
            "mcc compares the training rows with those of another domain: name their files in data.target",
        ),
        ({"task": "text-regression", "data.columns": {"target": "label"}}, "mcc needs classes"),
        ({"task": "token-classification"}, "data.target has no meaning for task token-classification"),
        ({"losses": ["coral"], "method": "feature-extraction"}, "coral moves the features"),
        ({"training.accumulation": 2}, "training.accumulation: 2"),
    ],
)
def test_what_a_loss_lacks_is_said_with_what_to_do(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=expected):
        RunSpec.resolve(spec_in(tmp_path, "mcc"), overrides=changes)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_fewer_target_rows_than_a_batch_are_refused(rows: int, tmp_path: Path) -> None:
    written = spec_in(tmp_path, "mcc")
    tickets(tmp_path / "target.csv", rows)
    with pytest.raises(DataError, match="no rows" if not rows else "data.target"):
        train_local(RunSpec.resolve(written))


def test_target_rows_of_other_columns_are_refused(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "mcc")
    (tmp_path / "target.csv").write_text("words\nhello\n")
    with pytest.raises(DataError, match="'text'"):
        train_local(RunSpec.resolve(written))


def test_a_spec_without_target_rows_keeps_its_name(tmp_path: Path) -> None:
    written = document(tmp_path)
    assert "target" not in RunSpec.resolve(written).model_dump(mode="json")["data"]
