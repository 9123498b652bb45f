"""Heads that are trained together equal heads that are trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from doubles.fake_coordinator import FakeCoordinator, searched
from regraft.contracts import BaselinesMeasured
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.tasks.inputs.text import MeanPooledClassifier
from regraft.tasks.text_classification import TextClassification
from regraft.training.session import train_local
from regraft.tuning.worker.stacked_heads import Stack
from support.image_bases import coloured, tiny_resnet
from support.tiny import document

MANY: list[dict[str, Any]] = [
    {},
    {"training.lr": 0.3},
    {"training.seed": 1, "training.warmup": 0.5, "training.schedule": "cosine"},
    {"training.optimizer": "adamw", "training.lr": 0.01, "training.weight_decay": 0.3},
    {"training.optimizer": "adamw", "training.lr": 0.003, "training.seed": 2, "training.dropout": 0.4},
    {"training.class_weights": "balanced", "training.label_smoothing": 0.1},
    {"training.class_weights": {"entry": 3.0}, "training.seed": 3, "training.head_factor": 2.0},
    {"training.dropout": 0.0, "training.clip": 0.05, "training.batch_size": 11},
    {"training.dropout": 0.5, "training.bucketing": False, "training.clip": None, "training.epochs": 1},
    {"training.batch_size": 64, "training.steps": 5, "training.eval_steps": 1},
]


def spec_in(folder: Path, trunk: str = "disk", **training: Any) -> dict[str, Any]:
    written = document(folder, method="feature-extraction", **{"optimizer": "sgd", "lr": 0.1, "epochs": 2, **training})
    return {**written, "compute": {**written["compute"], "trunk": trunk}}


def whole(written: dict[str, Any], folder: Path, *points: dict[str, Any], **more: Any) -> FakeCoordinator:
    """Run the same trials one by one through the complete model."""
    off = {**written, "compute": {**written["compute"], "trunk": "off"}}
    return searched(off, folder, *points, search="whole", **more)


def logits_of(written: dict[str, Any], prefix: str | None, features: torch.Tensor) -> torch.Tensor:
    assert prefix is not None
    delta = load(open_store(written["store"]).get(f"{prefix}delta.safetensors"))
    assert set(delta) == {"classifier.weight", "classifier.bias"}
    return features @ delta["classifier.weight"].T + delta["classifier.bias"]


def alike(written: dict[str, Any], one: FakeCoordinator, two: FakeCoordinator, width: int = 32) -> None:
    features = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    assert one.ends.keys() == two.ends.keys()
    for trial, end in one.ends.items():
        other = two.ends[trial]
        assert (end.status, end.depth, end.trainable, end.total) == (
            other.status, other.depth, other.trainable, other.total
        ), (end, other)  # fmt: skip
        assert [report.step for report in one.reports[trial]] == [report.step for report in two.reports[trial]]
        assert one.curve(trial) == pytest.approx(two.curve(trial), abs=1e-5), trial
        assert end.correct == other.correct
        near = logits_of(written, end.checkpoint, features) - logits_of(written, other.checkpoint, features)
        assert near.abs().max() <= 1e-4, trial


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, None])
def test_each_head_of_a_stack_is_the_head_alone(every: int | None, tmp_path: Path) -> None:
    written = spec_in(tmp_path, eval_steps=every)
    coordinator = searched(written, tmp_path / "w", *MANY)
    assert [end.error for end in coordinator.ends.values()] == [None] * len(MANY)
    assert {end.together for end in coordinator.ends.values()} == {8, 2}
    assert coordinator.shared()["computed"] == 90
    alike(written, coordinator, whole(written, tmp_path / "w", *MANY))


@pytest.mark.slow
def test_heads_on_images_too(tmp_path: Path) -> None:
    data = {side: str(coloured(tmp_path / side, each=each, seed=each)) for side, each in (("train", 20), ("eval", 6))}
    written = {
        **spec_in(tmp_path),
        "base": str(tiny_resnet(tmp_path / "resnet")),
        "task": "image-classification",
        "data": data,
    }
    points: list[dict[str, Any]] = [{}, {"training.lr": 0.02}, {"training.seed": 4}]
    coordinator, other = searched(written, tmp_path / "w", *points), whole(written, tmp_path / "w", *points)
    assert {end.together for end in coordinator.ends.values()} == {3}
    for trial in coordinator.ends:
        assert coordinator.curve(trial) == pytest.approx(other.curve(trial), abs=1e-5)


@pytest.mark.parametrize("trunk", [pytest.param("disk", marks=pytest.mark.slow), "memory"])
@pytest.mark.slow
def test_heads_on_features_of_less_precision(trunk: str, tmp_path: Path) -> None:
    """A GPU computes in bf16 by default, and a ResNet's features are then bf16."""
    data = {side: str(coloured(tmp_path / side, each=each, seed=each)) for side, each in (("train", 20), ("eval", 6))}
    written = {**spec_in(tmp_path, trunk), "task": "image-classification", "data": data}
    written["base"], written["compute"]["precision"] = str(tiny_resnet(tmp_path / "resnet")), "bf16"
    coordinator = searched(written, tmp_path / "w", {}, {"training.lr": 0.02})
    assert {(end.status, end.together) for end in coordinator.ends.values()} == {("finished", 2)}, coordinator.ends
    other = whole(written, tmp_path / "w", {}, {"training.lr": 0.02})
    for trial in coordinator.ends:
        assert coordinator.curve(trial) == pytest.approx(other.curve(trial), rel=0.05)


@pytest.mark.slow
def test_one_head_that_diverges_or_is_stopped_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=4)
    points: list[dict[str, Any]] = [
        {},
        {"training.lr": 3e38, "training.clip": None},
        {"training.lr": 0.2},
        {"training.lr": 0.3, "training.early_stopping": 1},
        {"training.lr": 1e-9, "training.early_stopping": 1},
    ]
    coordinator = searched(written, tmp_path / "w", *points, coordinator=FakeCoordinator(stop={"t0002": 2}))
    states = [coordinator.ends[f"t{number:04d}"].status for number in range(5)]
    assert states == ["finished", "failed", "stopped", "finished", "finished"]
    assert "not a number" in (coordinator.ends["t0001"].error or "") or "norm is" in (
        coordinator.ends["t0001"].error or ""
    )
    assert [len(coordinator.reports[f"t{number:04d}"]) for number in (0, 2)] == [4, 2]
    assert len(coordinator.reports["t0004"]) == 2
    lone = searched(written, tmp_path / "w", {}, search="lone")
    assert coordinator.curve("t0000") == pytest.approx(lone.curve("t0000"), abs=1e-6)


@pytest.mark.slow
def test_what_breaks_for_all_at_once_lets_each_go_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = spec_in(tmp_path, epochs=3)
    straight = searched(written, tmp_path / "w", *MANY[:3], search="straight")
    step, count = Stack.step, [0]

    def breaking(self: Stack) -> None:
        count[0] += 1
        if count[0] == 20:
            raise MemoryError("no room for all of them")
        step(self)

    monkeypatch.setattr(Stack, "step", breaking)
    coordinator = searched(written, tmp_path / "w", *MANY[:3])
    assert "3 trials go on one after another: MemoryError" in coordinator.notes()
    for trial in coordinator.ends:
        assert coordinator.ends[trial].status == "finished"
        assert [report.step for report in coordinator.reports[trial]] == [8, 16, 24]
        assert coordinator.curve(trial) == pytest.approx(straight.curve(trial), abs=1e-5)


@pytest.mark.slow
def test_a_head_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.tuning.worker.head_cohort.EVERY_S", 0.0)
    written = spec_in(tmp_path, epochs=4, optimizer="adamw", lr=0.01)
    points: list[dict[str, Any]] = [{}, {"training.lr": 0.03, "training.dropout": 0.2}]
    straight = searched(written, tmp_path / "w", *points, search="straight")

    class FakeDyingCoordinator(FakeCoordinator):
        def report(self, trial: str, report: Any) -> bool:
            super().report(trial, report)
            if len(self.reports[trial]) == 3:
                raise ConnectionError("the worker died")
            return True

    with pytest.raises(ConnectionError):
        searched(written, tmp_path / "w", *points, coordinator=FakeDyingCoordinator())
    coordinator = searched(written, tmp_path / "w", *points)
    for trial in coordinator.ends:
        assert [report.step for report in coordinator.reports[trial]] == [24, 32]
        assert coordinator.curve(trial) == pytest.approx(straight.curve(trial)[2:], abs=1e-6)
        assert coordinator.ends[trial].correct == straight.ends[trial].correct


@pytest.mark.slow
def test_heads_that_need_more_run_one_after_another_and_it_is_reported(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1, accumulation=2)
    coordinator = searched(written, tmp_path / "w", {}, {"training.lr": 0.2})
    assert "one after another: training.accumulation makes several batches of one" in coordinator.notes()
    assert [(end.status, end.together) for end in coordinator.ends.values()] == [("finished", 1)] * 2
    other = whole(written, tmp_path / "w", {}, {"training.lr": 0.2})
    assert coordinator.curve("t0001") == pytest.approx(other.curve("t0001"), abs=1e-5)


@pytest.mark.slow
def test_a_head_that_is_more_than_it_seems_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, loss = MeanPooledClassifier.forward, TextClassification.loss

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits * 2
        return output

    def mixed(self: Any, output: Any, batch: Any, context: Any) -> Any:
        total, weight = loss(self, output, batch, context)
        return total + output.logits.mean().square(), weight

    for patched, why in (
        ((MeanPooledClassifier, "forward", doubled), "the model does more with the head's output than hand it on"),
        ((TextClassification, "loss", mixed), "its loss is not a sum over rows"),
    ):
        with monkeypatch.context() as context:
            context.setattr(*patched)
            coordinator = searched(spec_in(tmp_path, epochs=1), tmp_path / "w", {}, search=why[:9].replace(" ", "-"))
        assert why in coordinator.notes()
        assert coordinator.ends["t0000"].status == "finished"


def test_a_second_search_of_heads_computes_nothing(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1)
    assert searched(written, tmp_path / "w", {}, search="one").shared()["computed"] == 90
    second = searched(written, tmp_path / "w", {"training.lr": 0.5}, search="two").shared()
    assert (second["computed"], second["reused"]) == (0, 90)


def test_the_honest_baselines_come_from_the_same_features(tmp_path: Path) -> None:
    written = spec_in(tmp_path, epochs=1, baselines=True)
    coordinator = searched(written, tmp_path / "w", {}, {"training.lr": 0.5})
    (event,) = [event for event in coordinator.events if isinstance(event, BaselinesMeasured)]
    spec = RunSpec.resolve({**written, "store": str(tmp_path / "alone")})
    train_local(spec)
    known = Runs(open_store(spec.store)).find(spec.run) or {}
    assert event.correct == known["baseline_correct"]
    assert event.baselines["majority"] == known["baselines"]["majority"]
    assert event.baselines["nearest_centroid"] == pytest.approx(known["baselines"]["nearest_centroid"], abs=1e-5)
