"""Trials in one worker equal runs of their own, and the error of one trial does not affect another."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from doubles.fake_coordinator import FakeCoordinator, computed_by_one, job_of, prepared_worker, searched, trials_of
from regraft.contracts import TrunkProgress
from regraft.errors import StoreError
from regraft.spec.run import RunSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from regraft.training.step import Stepper
from regraft.trunk import cost_model
from regraft.tuning.protocol import Report, Trial
from regraft.tuning.worker import shared_cuts
from regraft.tuning.worker.context import WorkerContext
from support.processes import in_child
from support.tiny import document, tickets

MIXED: list[dict[str, Any]] = [
    {"method": {"type": "freeze", "depth": 1}},
    {"method": {"type": "freeze", "depth": 2}, "training.lr": 0.01},
    {"method": "lora", "training.batch_size": 5},
    {"method": "full", "training.seed": 3, "training.optimizer": "adamw", "training.lr": 1e-3, "compute.trunk": "auto"},
    {"method": "feature-extraction", "training.dropout": 0.3},
    {"method": "prototypes"},
    {"method": {"type": "prototypes", "covariance": "shared", "cosine": False}},
]


def spec_in(folder: Path, trunk: str = "disk", **training: Any) -> dict[str, Any]:
    """Return a spec with SGD, since AdamW amplifies rounding errors of gradients that are zero."""
    written = document(folder, **{"optimizer": "sgd", "lr": 0.05, "epochs": 3, **training})
    return {**written, "compute": {**written["compute"], "trunk": trunk}}


def run_alone(
    written: dict[str, Any], point: dict[str, Any], store: Path
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return evaluation losses and best delta of the run that a trial stands for, without a trunk cache."""
    changed = {**point, "compute.trunk": "off", "store": str(store)}
    spec = RunSpec.resolve(written).override(changed)
    train_local(spec)
    lines = Runs(open_store(spec.store)).read(spec.run, "metrics.jsonl").decode().splitlines()
    losses = [entry["eval_loss"] for line in lines if "eval_loss" in (entry := json.loads(line))]
    opened = open_store(spec.store)
    return losses, load(opened.get(f"{Registry(opened).version(spec.name, 'latest').prefix}delta.safetensors"))


def delta_of(written: dict[str, Any], prefix: str | None) -> dict[str, torch.Tensor]:
    assert prefix is not None
    return load(open_store(written["store"]).get(f"{prefix}delta.safetensors"))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], within: float) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=within), name


FEW_WEIGHTS: list[dict[str, Any]] = [{"method": "bitfit"}, {"method": "ia3"}]
IN_PHASES: list[dict[str, Any]] = [
    {"method": {"type": "lp-ft", "probe": 0.4}},
    {"method": "gradual-unfreezing", "training.epochs": 4},
    {"method": "feature-extraction", "compute.trunk": "auto"},
]


@pytest.mark.parametrize(
    "points",
    [MIXED, pytest.param(FEW_WEIGHTS, marks=pytest.mark.slow), pytest.param(IN_PHASES, marks=pytest.mark.slow)],
    ids=["mixed", "few", "phases"],
)
def test_each_trial_is_the_run_it_stands_for(tmp_path: Path, points: list[dict[str, Any]]) -> None:
    written = spec_in(tmp_path)
    coordinator = searched(written, tmp_path / "w", *points, depths=(1, 2, "feature-extraction"))
    for number, point in enumerate(points):
        trial = f"t{number:04d}"
        assert coordinator.ends[trial].status == "finished", coordinator.ends[trial].error
        losses, delta = run_alone(written, point, tmp_path / trial)
        assert coordinator.curve(trial) == pytest.approx(losses, abs=1e-5), point
        adamw = point.get("training.optimizer") == "adamw"
        same(delta_of(written, coordinator.ends[trial].checkpoint), delta, 2e-3 if adamw else 1e-5)


FROZEN: list[dict[str, Any]] = [{"method": {"type": "freeze", "depth": depth}} for depth in (1, 2)]


def test_every_depth_comes_from_one_pass_and_a_second_search_computes_nothing(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1)
    first = searched(written, tmp_path / "w", *FROZEN, depths=(1, 2))
    assert first.shared() | {"why": ""} == {
        **first.shared(), "why": "", "rows": 90, "computed": 90, "reused": 0, "where": "disk"
    }  # fmt: skip
    assert max(event.total for event in first.events if isinstance(event, TrunkProgress)) == 90
    again = [{**point, "training.lr": 0.01} for point in FROZEN]
    second = searched(written, tmp_path / "w", *again, depths=(1, 2), search="second")
    assert (second.shared()["computed"], second.shared()["reused"]) == (0, 90)
    assert not [event for event in second.events if isinstance(event, TrunkProgress)]
    assert second.ends["t0001"].status == "finished"


@pytest.mark.slow
def test_of_added_rows_only_those_are_computed(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1)
    searched(written, tmp_path / "w", depths=(1, 2))
    lines = (tmp_path / "train.csv").read_text().splitlines()
    more = tickets(tmp_path / "more.csv", 100, seed=9).read_text().splitlines()[1:]
    (tmp_path / "train.csv").write_text("\n".join([*lines, *more]) + "\n")
    coordinator = searched(written, tmp_path / "w", *FROZEN, depths=(1, 2), search="more")
    assert (coordinator.shared()["computed"], coordinator.shared()["rows"]) == (100, 190)
    losses, _ = run_alone(written, FROZEN[1], tmp_path / "alone")
    assert coordinator.curve("t0001") == pytest.approx(losses, abs=1e-5)


@pytest.mark.slow
def test_what_ends_a_trial_ends_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path, "off", epochs=1)
    points: list[dict[str, Any]] = [
        {"training.lr": 1e30, "training.clip": None, "method": "full"},
        {"training.lr": -1},
        {"method": {"type": "freeze", "depth": 7}},
        {"training.seed": 5},
        {"base": str(tmp_path)},
        {"training.class_weights": {"entry": 1.0, "weather": 2.0}},
        {"training.lr": 0.01},
    ]
    step = Stepper.step

    def starved(self: Stepper, *args: Any) -> Any:
        if self.seed == 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return step(self, *args)

    monkeypatch.setattr(Stepper, "step", starved)
    coordinator = searched(written, tmp_path / "w", *points)
    errors = [coordinator.ends[f"t{number:04d}"].error or "" for number in range(len(points))]
    assert all("\n" not in error for error in errors)
    assert ("the loss is" in errors[0] and "not a number" in errors[0]) or "nan" in errors[0]
    assert errors[1].startswith("training.lr: -1 is written")
    assert "7 is written; this base has 2 blocks" in errors[2]
    assert "memory ran out" in errors[3] and "training.batch_size" in errors[3]
    assert errors[4].startswith("base: trials of one search share it")
    assert "weather" in errors[5]
    assert coordinator.ends["t0006"].status == "finished"
    assert [end.status for end in coordinator.ends.values()].count("failed") == 6


def test_an_error_of_the_store_or_the_coordinator_is_no_trials_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = spec_in(tmp_path, "off", epochs=1)
    coordinator = FakeCoordinator()
    made = prepared_worker(written, tmp_path / "w", coordinator)

    def full(*args: Any, **kwargs: Any) -> Any:
        raise StoreError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", full)
        with pytest.raises(StoreError, match="no space"):
            made.run(trials_of({}), coordinator)
    with monkeypatch.context() as patched:
        patched.setattr(coordinator, "report", lambda *_: {}["the coordinator is gone"])
        with pytest.raises(KeyError):
            made.run(trials_of({}), coordinator)
    assert not coordinator.ends
    made.run(trials_of({}), coordinator)
    assert coordinator.ends["t0000"].status == "finished"


def test_a_trial_is_stopped_and_keeps_its_best(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "off", epochs=4)
    coordinator = searched(
        written, tmp_path / "w", {"method": "full"}, {}, coordinator=FakeCoordinator(stop={"t0000": 2})
    )
    assert [coordinator.ends[trial].status for trial in ("t0000", "t0001")] == ["stopped", "finished"]
    assert [report.step for report in coordinator.reports["t0000"]] == [8, 16]
    assert len(coordinator.reports["t0001"]) == 4
    best = max(coordinator.reports["t0000"], key=lambda report: report.metrics["accuracy"])
    saved = coordinator.ends["t0000"].checkpoint
    assert saved is not None and f"/{best.step:08d}-" in saved


def test_nothing_is_written_without_room(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "off", epochs=2)
    coordinator = searched(
        written, tmp_path / "w", {}, {}, coordinator=FakeCoordinator(reserve=lambda trial, count: trial == "t0001")
    )
    assert {trial for trial, _ in coordinator.asked} == {"t0000", "t0001"}
    assert {trial for trial, *_ in coordinator.kept} == {"t0001"}
    assert coordinator.ends["t0000"].checkpoint is None and coordinator.ends["t0000"].status == "finished"
    store = open_store(written["store"])
    assert not list(store.list("searches/s/trials/t0000/"))
    for _, prefix, count, score in coordinator.kept:
        stored = sum(stat.size for stat in store.list(prefix) if stat.key.endswith(".safetensors"))
        assert score is not None and stored == count


def test_a_trial_whose_worker_died_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    written = spec_in(tmp_path, "off", epochs=4, optimizer="adamw", lr=3e-3, dropout=0.1)
    straight = searched(written, tmp_path / "w", {}, search="straight")

    class FakeDyingCoordinator(FakeCoordinator):
        def report(self, trial: str, report: Report) -> bool:
            super().report(trial, report)
            if len(self.reports[trial]) == 3:
                raise ConnectionError("the worker died")
            return True

    dying = FakeDyingCoordinator()
    with pytest.raises(ConnectionError):
        searched(written, tmp_path / "w", {}, coordinator=dying)
    assert dying.kept
    coordinator = searched(written, tmp_path / "w", {})
    assert len(coordinator.reports["t0000"]) < 4
    assert coordinator.curve("t0000") == straight.curve("t0000")[-len(coordinator.reports["t0000"]) :]
    ends = straight.ends["t0000"], coordinator.ends["t0000"]
    assert ends[0].correct == ends[1].correct
    one, two = (delta_of(written, end.checkpoint) for end in ends)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_trial_that_is_over_leaves_no_model_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector is off: a search of large models would hold several of them until its next pass."""
    written = spec_in(tmp_path, epochs=1)
    alive: list[weakref.ref[Any]] = []
    made = WorkerContext.adapted

    def watched(self: WorkerContext, *args: Any) -> Any:
        adapted = made(self, *args)
        alive.append(weakref.ref(adapted.model))
        return adapted

    points = [{"method": "full", "compute.trunk": "off"}, *FROZEN]
    coordinator = FakeCoordinator()
    worker = prepared_worker(written, tmp_path / "w", coordinator, depths=(1, 2))
    worker.run(trials_of(*points), coordinator)
    monkeypatch.setattr(WorkerContext, "adapted", watched)
    gc.collect()
    gc.disable()
    try:
        again = [Trial(10 + number, {**point, "training.lr": 0.01}) for number, point in enumerate(points)]
        worker.run(again, coordinator)
        assert len(coordinator.ends) == 6 and len(alive) >= 2
        assert [ref() for ref in alive if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.slow
def test_two_workers_of_a_machine_compute_the_rows_once(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1)
    job_of(written)
    out = [tmp_path / f"w{number}" for number in range(2)]
    threads = [threading.Thread(target=in_child, args=(computed_by_one, written, (1, 2), str(path))) for path in out]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((path / "computed").read_text() for path in out) == ["0", "90"]


def test_what_goes_wrong_with_the_trunk_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no space left on device")

    written = spec_in(tmp_path, "auto", epochs=1)
    monkeypatch.setattr(cost_model, "DISK_S_PER_BYTE", 0.0)
    monkeypatch.setattr(shared_cuts, "fill_trunk", broken)
    coordinator = searched(written, tmp_path / "w", FROZEN[0], {"method": "feature-extraction"}, depths=(1,))
    assert "computed again in every epoch: keeping it failed (OSError: no space left" in coordinator.notes()
    assert [end.status for end in coordinator.ends.values()] == ["finished"] * 2
