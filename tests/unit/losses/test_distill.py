"""Distillation: the divergence of the paper, and a teacher whose logits are computed once a row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from doubles.fake_coordinator import searched
from regraft.contracts import Event, Note, Step, TrunkProgress
from regraft.errors import NotFound, RequestError, SpecError
from regraft.losses.distill import Divergence
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from regraft.training.teachers import class_order
from support.processes import in_child, on_ranks, train_counted
from support.tiny import document


def divergence(logits: Tensor, teacher: Tensor, temperature: float, labels: Tensor) -> Tensor:
    batch = {"labels": labels, "teachers": {"t": teacher}}
    return Divergence("t", temperature)(Step(batch, SimpleNamespace(logits=logits), None, 0.0))  # type: ignore[no-any-return]


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("several", [False, True])
def test_the_divergence_is_that_of_the_paper(several: bool) -> None:
    draw = np.random.default_rng(5)
    logits, teacher, heat = draw.normal(size=(7, 4)) * 3, draw.normal(size=(7, 4)) * 3, 2.5
    if several:
        p, q = (1 / (1 + np.exp(-one / heat)) for one in (teacher, logits))
        expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(1).mean() * heat**2
    else:
        p, q = softmax(teacher / heat), softmax(logits / heat)
        expected = (p * np.log(p / q)).sum(1).mean() * heat**2
    labels = torch.zeros(7, 4) if several else torch.zeros(7, dtype=torch.int64)
    found = torch.from_numpy(logits).requires_grad_()
    value = divergence(found, torch.from_numpy(teacher), heat, labels)
    assert value.item() == pytest.approx(expected, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x: divergence(x, torch.from_numpy(teacher), heat, labels), (found,))
    assert divergence(found, found.detach(), heat, labels).item() == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The spec of a model that learns from a registered one, which is trained already."""
    made = document(tmp_path_factory.mktemp("distill"), epochs=2, optimizer="sgd", lr=0.05, dropout=0.0)
    train_local(RunSpec.resolve({**made, "name": "teacher"}))
    loss = {"type": "distill", "teacher": "model:teacher", "temperature": 2.0, "weight": 1.0}
    return {**made, "method": {"type": "freeze", "depth": 1}, "losses": [loss]}


def lines(written: dict[str, Any], key: str = "loss") -> list[float]:
    text = Runs(open_store(written["store"])).read(RunSpec.resolve(written).run, "metrics.jsonl")
    return [line[key] for line in map(json.loads, text.decode().splitlines()) if key in line]


def trained(written: dict[str, Any]) -> tuple[list[str], int]:
    """Train; return the notes, and the number of rows that were computed before the first step."""
    events: list[Event] = []
    train_local(RunSpec.resolve(written), progress=events.append)
    counts = [event.rows for event in events if isinstance(event, TrunkProgress)]
    return [event.message for event in events if isinstance(event, Note)], max(counts, default=0)


def test_a_teachers_logits_are_computed_once_and_found_by_later_runs(written: dict[str, Any]) -> None:
    notes, rows = trained(written)
    assert rows == 60 and "the logits of teacher teacher@v1 are computed once for 60 rows" in notes
    notes, rows = trained({**written, "training": {**written["training"], "seed": 1}})
    assert rows == 0 and "the logits of teacher teacher@v1 are found in the store" in notes
    assert RunSpec.resolve(written).losses[0].teacher == "model:teacher@v1"  # type: ignore[attr-defined]


def test_a_term_without_weight_leaves_the_run_bit_identical(written: dict[str, Any]) -> None:
    silent = {**written, "name": "silent", "losses": [{**written["losses"][0], "weight": 0}]}
    assert not [note for note in trained(silent)[0] if "teacher" in note]
    trained({**written, "losses": [], "name": "plain"})
    heard = {**written, "name": "heard"}
    trained(heard)
    store = open_store(written["store"])
    names = ("silent", "plain", "heard")
    deltas = [store.get(f"{Registry(store).version(name).prefix}delta.safetensors") for name in names]
    assert deltas[0] == deltas[1] != deltas[2]
    assert lines(heard) != lines(silent)


def test_a_teacher_of_other_classes_or_none_is_refused_in_words(written: dict[str, Any], tmp_path: Path) -> None:
    rows = list(csv.reader(Path(written["data"]["train"]).read_text().splitlines()))
    for side in ("train", "eval"):
        with (tmp_path / f"other-{side}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([text, "lamp" if label == "light" else label] for text, label in rows)
    data = {side: str(tmp_path / f"other-{side}.csv") for side in ("train", "eval")}
    with pytest.raises(RequestError, match=r"teacher teacher@v1 lacks 'lamp' and also knows 'light': .*data\.labels"):
        train_local(RunSpec.resolve({**written, "data": data}))
    columns = {"labels": "label"}
    other = {**written, "task": "text-multi-label", "data": {**written["data"], "columns": columns}}
    with pytest.raises(RequestError, match="is of task text-classification, and this run of text-multi-label"):
        train_local(RunSpec.resolve(other))
    with pytest.raises(NotFound, match="teacher"):
        RunSpec.resolve(written, overrides={"losses": [{"type": "distill", "teacher": "model:teachers"}]})
    with pytest.raises(SpecError, match=r"distill\.teacher: org/name is written; a registered model is named"):
        RunSpec.resolve(written, overrides={"losses": [{"type": "distill", "teacher": "org/name"}]})
    with pytest.raises(SpecError, match="needs classes"):
        RunSpec.resolve(written, overrides={"task": "text-regression", "data.columns": {"target": "label"}})


def test_classes_in_another_order_are_those_of_the_rows() -> None:
    version: Any = SimpleNamespace(meta={"labels": ["entry", "light", "money"]})
    assert class_order(version, ("money", "entry", "light")) == (2, 0, 1)


@pytest.mark.slow
def test_trials_of_a_search_learn_from_the_teacher_as_runs_do(written: dict[str, Any], tmp_path: Path) -> None:
    points: list[dict[str, Any]] = [{"training.lr": 0.01}, {"training.lr": 0.1}]
    coordinator = searched(written, tmp_path, *points)
    for number, point in enumerate(points):
        trial = f"t{number:04d}"
        assert coordinator.ends[trial].status == "finished", coordinator.ends[trial].error
        alone = {**written, "training": {**written["training"], "lr": point["training.lr"]}}
        trained(alone)
        assert coordinator.curve(trial) == pytest.approx(lines(alone, "eval_loss"), abs=1e-5)
    notes = [event.message for event in coordinator.events if isinstance(event, Note)]
    assert not [note for note in notes if "failed" in note]


@pytest.mark.long
def test_workers_and_kills_do_not_change_a_distilled_run(written: dict[str, Any]) -> None:
    trained(written)
    two = {**written, "store": f"{written['store']}-two"}
    copied(written, two)
    on_ranks(2, two, f"{two['store']}.log")
    assert lines(two) == pytest.approx(lines(written), abs=1e-5)
    killed = {**written, "store": f"{written['store']}-killed"}
    copied(written, killed)
    assert in_child(train_counted, killed, f"{killed['store']}.log", 11) == -9
    assert in_child(train_counted, killed, f"{killed['store']}.log") == 0
    assert lines(killed) == lines(written)


def copied(written: dict[str, Any], other: dict[str, Any]) -> None:
    """Train the teacher in another store too."""
    train_local(RunSpec.resolve({**other, "name": "teacher", "losses": [], "method": "full"}))
