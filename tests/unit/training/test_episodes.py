"""Steps of a run are episodes where a loss draws them: the same on any number of workers and after every crash."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft.contracts import Event, Note
from regraft.data.sampler import share
from regraft.data.snapshot import open_snapshot
from regraft.errors import DataError, SpecError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.gathering import dealt_order
from regraft.training.session import train_local
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document

LOSS = {"type": "prototypical", "way": 3, "shot": 1, "query": 2}


def spec_in(folder: Path, *losses: Any, store: str = "store", **changes: Any) -> dict[str, Any]:
    written = document(folder, rows=50, eval_rows=12, **{"dropout": 0.0, "epochs": 2, "batch_size": 9, **changes})
    return {**written, "losses": list(losses), "store": str(folder / store)}


def delta(written: dict[str, Any]) -> bytes:
    store = open_store(written["store"])
    return store.get(f"{Registry(store).version('tiny').prefix}delta.safetensors")


def losses(written: dict[str, Any]) -> list[float]:
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    return [line["loss"] for line in map(json.loads, text.decode().splitlines()) if "loss" in line]


def steps(log: Path) -> dict[int, list[int]]:
    """Return the rows of each step that a run took, of its last attempt."""
    lines = [list(map(int, line.split())) for line in log.read_text().splitlines()]
    return {step: rows for _, step, *rows in lines}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of one process, made without interruption."""
    written = spec_in(tmp_path_factory.mktemp("episodes"), LOSS)
    assert in_child(train_counted, written, f"{written['store']}.log") == 0
    return written


def test_every_step_is_an_episode_and_an_epoch_has_as_many_steps_as_otherwise(tmp_path: Path) -> None:
    written, log = spec_in(tmp_path, LOSS), tmp_path / "rows.log"
    train_counted(written, str(log))
    seen, runs = steps(log), Runs(open_store(written["store"]))
    (run,) = runs.list()
    rows = open_snapshot(open_store(written["store"]), str(runs.info(run.name).fields["data"])).train
    assert len(seen) == 12  # two epochs of 50 rows
    for chosen in seen.values():
        labels = [rows.row(index)["label"] for index in chosen]
        assert Counter(labels) == dict.fromkeys(("entry", "light", "money"), 3)
        assert len(set(chosen)) == 9 and labels == sorted(labels, key=labels.index)
    assert len({tuple(chosen) for chosen in seen.values()}) == 12


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(alone: dict[str, Any]) -> None:
    killed = {**alone, "store": f"{alone['store']}-killed"}
    assert in_child(train_counted, killed, f"{killed['store']}.log", 7) == -9
    assert in_child(train_counted, killed, f"{killed['store']}.log") == 0
    assert delta(killed) == delta(alone)
    assert losses(killed) == losses(alone)
    assert steps(Path(f"{killed['store']}.log")) == steps(Path(f"{alone['store']}.log"))


@pytest.mark.slow
def test_two_workers_give_the_losses_of_one(alone: dict[str, Any]) -> None:
    written = {**alone, "store": f"{alone['store']}-two"}
    on_ranks(2, written, f"{written['store']}.log")
    assert losses(written) == pytest.approx(losses(alone), abs=1e-5)


@pytest.mark.slow
def test_a_weight_of_zero_leaves_the_run_bit_identical(tmp_path: Path) -> None:
    written = [
        spec_in(tmp_path, *some, store=str(number), epochs=1)
        for number, some in enumerate(([], [{**LOSS, "weight": 0}], [LOSS]))
    ]
    for one in written:
        train_local(RunSpec.resolve(one))
    plain, silent, drawn = map(delta, written)
    assert silent == plain != drawn


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("rows", [2, 9, 10])
def test_gathered_rows_are_in_the_order_of_the_step(world: int, rows: int) -> None:
    step = torch.arange(rows).numpy()
    parts = [share(step, rank, world)[0] for rank in range(world)]
    joined = torch.cat([torch.from_numpy(part) for part in parts])
    assert joined[dealt_order([len(part) for part in parts])].tolist() == step.tolist()


def test_classes_of_few_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    written = spec_in(tmp_path, {**LOSS, "way": 2, "query": 3}, batch_size=8, steps=2)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    money = [line for line in lines if line.endswith(",money")]
    (tmp_path / "train.csv").write_text("\n".join([line for line in lines if line not in money[3:]]) + "\n")
    events: list[Event] = []
    train_local(RunSpec.resolve(written), progress=events.append)
    notes = [event.message for event in events if isinstance(event, Note)]
    assert any("1 class is in no episode, for less than 4 training rows each: money" in note for note in notes)
    with pytest.raises(DataError, match=r"an episode takes 3 classes with 3 rows each .* 2 of 3 classes"):
        (tmp_path / "train.csv").write_text("\n".join([line for line in lines if line not in money[2:]]) + "\n")
        train_local(RunSpec.resolve(spec_in(tmp_path, LOSS)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"training.batch_size": 32},
            r"way 3 x \(shot 1 \+ query 2\)\), and training.batch_size is 32: write batch_size 9",
        ),
        ({"training.accumulation": 3}, "training.accumulation: 3"),
        ({"method": "feature-extraction"}, "moves the features"),
        ({"method": "prototypes"}, "losses need gradient steps"),
        ({"task": "text-multi-label", "data.columns": {"labels": "label"}}, "needs one label a row"),
        ({"losses": [LOSS, {**LOSS, "way": 9, "query": 0}]}, "query"),
        ({"losses": [LOSS, {**LOSS, "shot": 2, "query": 1}]}, "so does another loss"),
    ],
)
def test_what_an_episode_lacks_is_said_with_what_to_do(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=expected):
        RunSpec.resolve(spec_in(tmp_path, LOSS), overrides=changes)
