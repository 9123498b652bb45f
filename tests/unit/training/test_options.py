"""Every switch of `training` and `compute` does what its name says."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import regraft
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.locate import locate
from regraft.contracts import Method
from regraft.errors import Diverged, RequestError, SpecError
from regraft.spec.run import RunSpec
from regraft.spec.sections import TrainingSpec
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.optimizer import build_optimizer, parameter_groups, schedule, set_learning_rate
from regraft.training.registration import Outcome
from regraft.training.session import train_local
from support.processes import on_ranks
from support.tiny import document


def run(folder: Path, *, compute: dict[str, Any] | None = None, **changes: Any) -> tuple[Outcome, RunSpec, list[Any]]:
    written = document(folder, **changes)
    written["compute"] = {**written["compute"], **(compute or {})}
    spec = RunSpec.resolve(written)
    events: list[Any] = []
    return train_local(spec, progress=lambda event: events.append(event.document())), spec, events


def lines(spec: RunSpec) -> list[dict[str, Any]]:
    text = Runs(open_store(spec.store)).read(spec.run, "metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def losses(spec: RunSpec) -> list[float]:
    return [line["loss"] for line in lines(spec) if "loss" in line]


def test_recomputed_activations_change_no_loss(tmp_path: Path) -> None:
    _, plain, _ = run(tmp_path, dropout=0.0)
    other = {**document(tmp_path, dropout=0.0), "store": str(tmp_path / "other")}
    other["compute"] = {"workers": 0, "cpus": 1, "activation_checkpointing": True}
    spec = RunSpec.resolve(other)
    train_local(spec)
    assert losses(spec) == pytest.approx(losses(plain), abs=1e-6)


def test_bf16_follows_fp32_within_its_precision(tmp_path: Path) -> None:
    _, plain, _ = run(tmp_path, dropout=0.0)
    other = {**document(tmp_path, dropout=0.0), "store": str(tmp_path / "other")}
    other["compute"] = {"workers": 0, "cpus": 1, "precision": "bf16"}
    spec = RunSpec.resolve(other)
    train_local(spec)
    assert losses(spec) != losses(plain)
    assert losses(spec) == pytest.approx(losses(plain), abs=0.05)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_losses_and_the_same_names(tmp_path: Path) -> None:
    _, plain, _ = run(tmp_path, dropout=0.0, steps=4)
    other = {**document(tmp_path, dropout=0.0, steps=4), "store": str(tmp_path / "other")}
    other["compute"] = {"workers": 0, "cpus": 1, "compile": True}
    spec = RunSpec.resolve(other)
    train_local(spec)
    assert losses(spec) == pytest.approx(losses(plain), abs=1e-5)
    headers = [
        (Path(folder) / "models/tiny/v1/delta.safetensors").read_bytes()[8:4000].split(b"}}")[0]
        for folder in (plain.store, spec.store)
    ]
    assert headers[0] == headers[1]


def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a CPU trains in fp32 or bf16"):
        run(tmp_path, compute={"precision": "fp16"})


def test_early_stopping_ends_after_so_many_evaluations_without_improvement(tmp_path: Path) -> None:
    outcome, spec, events = run(tmp_path, epochs=30, early_stopping=2, lr=1e-6, seed=3)
    evaluations = [event for event in events if event["event"] == "eval"]
    assert len(evaluations) < 30
    assert [event["best"] for event in evaluations[-2:]] == [False, False]
    best = max(event["metrics"]["accuracy"] for event in evaluations)
    assert outcome.metrics["accuracy"] == best
    assert train_local(spec).already


def test_steps_may_be_more_than_the_epochs_make(tmp_path: Path) -> None:
    _, spec, _ = run(tmp_path, epochs=1, steps=11)
    assert lines(spec)[-1]["step"] == 11


def test_rows_that_weigh_nothing_leave_the_loss_a_number(tmp_path: Path) -> None:
    _, spec, _ = run(tmp_path, class_weights={"light": 0.0}, batch_size=1, steps=6, bucketing=False)
    assert 0.0 in losses(spec) and all(loss == loss for loss in losses(spec))


def test_steps_and_eval_steps_bound_the_run(tmp_path: Path) -> None:
    _, spec, events = run(tmp_path, epochs=10, steps=11, eval_steps=4)
    assert [event["step"] for event in events if event["event"] == "eval"] == [4, 8, 11]
    assert lines(spec)[-1]["step"] == 11


def test_the_best_checkpoint_is_the_one_registered_and_old_ones_go(tmp_path: Path) -> None:
    outcome, spec, events = run(tmp_path, epochs=6, lr=5e-3, keep=2)
    evaluations = {event["step"]: event["metrics"] for event in events if event["event"] == "eval"}
    assert outcome.metrics == max(evaluations.values(), key=lambda metrics: metrics["accuracy"])
    kept = [saved.step for saved in Checkpoints(open_store(spec.store), spec.run).listed()]
    assert len(kept) <= 4 and kept[-1] == max(evaluations)
    model = regraft.load("tiny", store=spec.store)
    rows = [line.rsplit(",", 1) for line in (tmp_path / "eval.csv").read_text().splitlines()[1:]]
    right = [answer["label"] == label for answer, (_, label) in zip(model.predict([t for t, _ in rows]), rows)]  # noqa: B905
    assert sum(right) / len(right) == pytest.approx(outcome.metrics["accuracy"])


def test_class_weights_must_name_known_labels_and_balanced_moves_the_loss(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Unknown label 'lihgt'. Did you mean 'light'"):
        run(tmp_path, class_weights={"lihgt": 2.0})
    _, weighted, _ = run(tmp_path, class_weights={"light": 5.0}, seed=1)
    _, plain, _ = run(tmp_path, seed=1)
    assert losses(weighted) != losses(plain)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_checkpoint_of_it(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"lower training\.lr"):
        run(tmp_path, lr=1e30, optimizer="sgd", clip=None, warmup=0.0)
    store = open_store(str(tmp_path / "store"))
    assert not [stat for stat in store.list("models/")]
    assert not [stat for stat in store.list("runs/") if "checkpoints" in stat.key]


@pytest.mark.parametrize(
    "method", ["prototypes", pytest.param({"type": "prototypes", "covariance": "shared"}, marks=pytest.mark.slow)]
)
def test_prototypes_fitted_on_two_ranks_are_those_of_one(tmp_path: Path, method: Any) -> None:
    outcome, _, _ = run(tmp_path, method=method)
    written = {**document(tmp_path, method=method), "store": str(tmp_path / "two")}
    written["compute"] = {"workers": 0, "cpus": 1, "strategy": "fsdp"}
    on_ranks(2, written, str(tmp_path / "journal"))
    deltas = [(tmp_path / name / "models/tiny/v1/delta.safetensors").read_bytes() for name in ("store", "two")]
    sizes = {len(delta) for delta in deltas}
    values = [torch.frombuffer(bytearray(delta[-32 * 3 * 4 :]), dtype=torch.float32) for delta in deltas]
    assert len(sizes) == 1
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=0 if method == "prototypes" else 1e-4)
    assert outcome.metrics["accuracy"] > 0.5


def test_tensorboard_shows_one_curve_of_every_metric(tmp_path: Path) -> None:
    _, spec, _ = run(tmp_path)
    events = EventAccumulator(str(Path(spec.store) / "runs" / spec.run / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "eval/accuracy"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 17))


def test_the_schedule_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    for name, last in (("linear", 0.0), ("cosine", 0.0), ("constant", 1.0)):
        training = TrainingSpec(schedule=name, warmup=0.1)  # type: ignore[arg-type]
        shares = [schedule(step, 100, training) for step in range(101)]
        assert shares[0] == pytest.approx(0.1) and max(shares) == 1.0 and shares[10] == 1.0
        assert shares[100] == pytest.approx(last)
        assert all(one >= other - 1e-12 for one, other in pairwise(shares[10:]))


def test_layer_decay_and_head_factor_give_each_block_its_rate(tmp_path: Path) -> None:
    written = RunSpec.resolve(document(tmp_path, layer_decay=0.5, head_factor=10.0, lr=1e-3))
    adapted = adapt(
        locate(written.base), Adaptation(task=written.task, method=Method.lookup("full")(), labels=("a", "b"), seed=0)
    )
    named = dict(adapted.model.named_parameters())
    optimizer = build_optimizer(parameter_groups(named.items(), adapted.anatomy, written.training), written.training)
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(5e-3)
    rates = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    rate = {name: rates[id(p)] for name, p in named.items()}
    assert rate["classifier.weight"] == pytest.approx(1e-2)
    assert rate["base.encoder.layer.1.attention.self.query.weight"] == pytest.approx(5e-4)
    assert rate["base.encoder.layer.0.attention.self.query.weight"] == pytest.approx(2.5e-4)
    assert rate["base.embeddings.word_embeddings.weight"] == pytest.approx(1.25e-4)
    assert decays[id(named["classifier.bias"])] == 0.0 and decays[id(named["classifier.weight"])] == 0.01


def test_a_finished_run_says_so_and_fresh_starts_another(tmp_path: Path) -> None:
    first, spec, _ = run(tmp_path)
    again = train_local(spec)
    assert again.already and again.version == first.version == "v1"
    fresh = train_local(spec, fresh=True)
    assert (fresh.version, fresh.already) == ("v2", False) and fresh.run != first.run
    deltas = [(tmp_path / f"store/models/tiny/{v}/delta.safetensors").read_bytes() for v in ("v1", "v2")]
    assert deltas[0] == deltas[1], "the same spec, seed and machine give the same bits"


def test_rows_that_changed_since_a_run_began_are_another_run(tmp_path: Path) -> None:
    written = document(tmp_path)
    spec = RunSpec.resolve(written)
    runs = Runs(open_store(spec.store))
    runs.update(spec.run, state="running", data="of-other-rows")
    assert train_local(spec).run == f"{spec.run}.2"
