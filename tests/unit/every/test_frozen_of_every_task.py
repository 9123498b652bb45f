"""Every task trains alike with its frozen part cached and with it computed in every epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from regraft.contracts import Method, Task
from regraft.errors import Unsupported
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from regraft.training.session import train_local
from unit.every.rows import NOTHING_NEW, base_of, family_of, keys_of, rows_of, task_of

FAMILY = {key: family_of(key) for key in Task.names()}
MORE = [
    (keys_of("AutoModelForObjectDetection")[0], "detr"),
    (keys_of("AutoModelForSeq2SeqLM")[-1], "marian"),
    (keys_of("AutoModelForSequenceClassification")[0], "gpt2"),
    (keys_of("AutoModelForTokenClassification")[0], "deberta-v2"),
]
"""Families beside the first of their task that are cut in other places."""
METHODS = {key: Method.lookup(key) for key in Method.names() if not Method.lookup(key).closed_form}
PHASES = {key for key, method in METHODS.items() if method.has_phases()}
AT_A_DEPTH = [{"type": key, "depth": 2} for key, method in METHODS.items() if "depth" in method.model_fields]
HEAD_ALONE = [key for key, method in METHODS.items() if method.serves == "head"]


def in_phases(method: Any) -> bool:
    """Return whether a method as written trains in phases."""
    return isinstance(method, dict) and method["type"] in PHASES


def marks(family: str, key: str, method: Any) -> Any:
    """Return the mark of a case: those in phases and of further families are slow."""
    return pytest.mark.slow if in_phases(method) or FAMILY[key] != family else ()


CASES = [
    pytest.param(key, family, method, marks=marks(family, key, method))
    for key, family in [*FAMILY.items(), *MORE]
    if Task.lookup(key).takes_steps and not Task.lookup(key).random_inputs  # what changes in each epoch is not kept
    for method in (*AT_A_DEPTH, *(HEAD_ALONE if Task.lookup(key).auto not in NOTHING_NEW else ()))
]


def test_every_task_is_tried() -> None:
    assert set(FAMILY) == set(Task.names())


@pytest.mark.parametrize(("key", "family", "method"), CASES)
@pytest.mark.parametrize("trunk", ["disk", pytest.param("memory", marks=pytest.mark.slow)])
def test_losses_and_metrics_are_those_of_the_whole_model(
    key: str, family: str, method: Any, trunk: str, tmp_path: Path
) -> None:
    task = task_of(key)
    base_of(family, tmp_path / "base")
    written = spec_of(task, method, tmp_path)
    if in_phases(method):
        written["training"]["epochs"] = 9  # a phase of one epoch has nothing to keep
    try:
        whole, _ = trained(written, "off", tmp_path)
    except Unsupported as refused:
        assert task.auto in NOTHING_NEW
        pytest.skip(f"refused, as it should be: {refused}")
    kept, notes = trained(written, trunk, tmp_path)
    assert any("computed once a row" in note for note in notes), notes
    assert whole.keys() == kept.keys()
    for name, value in whole.items():
        assert kept[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def spec_of(task: Task, method: Any, folder: Path) -> dict[str, Any]:
    for side, times in (("train", 4), ("eval", 2)):
        rows = [row for _ in range(times) for row in rows_of(task)]
        lines = [json.dumps(stored(row, task, folder / f"{side}-{n}")) for n, row in enumerate(rows)]
        (folder / f"{side}.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "name": "tiny",
        "base": str(folder / "base"),
        "task": task.model_dump(mode="json"),
        "method": method,
        "data": {side: str(folder / f"{side}.jsonl") for side in ("train", "eval")},
        "training": {"epochs": 3, "batch_size": 4, "lr": 0.01, "optimizer": "sgd", "baselines": False},
        "compute": {"workers": 0, "cpus": 1},
    }


def stored(row: Mapping[str, Any], task: Task, place: Path) -> dict[str, Any]:
    """Return the row as a line of a file, with images written beside it."""
    cells = {name: value for name, value in row.items() if name != "row"}
    for name, value in cells.items():
        if isinstance(value, bytes):
            cells[name] = str(place.with_suffix(f".{name}.png"))
            Path(cells[name]).write_bytes(value)
    return cells


def trained(written: dict[str, Any], trunk: str, folder: Path) -> tuple[dict[str, float], list[str]]:
    """Return the losses and metrics of the run by step, and its notes."""
    notes: list[str] = []
    compute = {**written["compute"], "trunk": trunk}
    spec = RunSpec.resolve({**written, "compute": compute, "store": str(folder / f"store-{trunk}")})
    train_local(spec, progress=lambda event: notes.append(getattr(event, "message", "")))
    found = {}
    for line in Runs(open_store(spec.store)).read(spec.run, "metrics.jsonl").decode().splitlines():
        entry = json.loads(line)
        left_out = ("step", "epoch", "lr", "norm")
        found |= {f"{name} at {entry['step']}": value for name, value in entry.items() if name not in left_out}
    return found, notes
