"""Every method and every task: a class is taught, or the model is refused in words; both are enumerated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import regraft
from regraft.contracts import Method, Task
from regraft.data.kept_features import TEACHABLE
from regraft.errors import Unsupported
from unit.endpoint.model_store import ModelStore
from unit.every.rows import picture, task_of

VARIANTS = [
    {"type": "lora", "dora": True},
    {"type": "freeze", "depth": 1},
    {"type": "prototypes", "covariance": "shared"},
]
TEACHERS = [key for key in Method.names() if Method.lookup(key).fits in ("", "prototypes")]
"""The others fit layers that hold no classes."""
METHODS = [{"type": key} for key in TEACHERS if not Method.lookup(key).model_fields.get("depth")] + VARIANTS
QUICK = ("full", "lora", "prototypes")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("models"))


def rows_for(task: Task, folder: Path) -> tuple[Path, Path]:
    """Write examples of a new class, and labelled rows of the classes of before, for a task of texts or of pictures."""
    texts = [name for name, kind in task.input_columns().items() if kind == "text"]
    labelled = [(number, label) for number in range(4) for label in ("no", "yes", "perhaps")]
    if not texts:
        for number, label in [*labelled, (5, "new")]:
            path = folder / ("new" if label == "new" else "rows") / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number + len(label)))
        return folder / "new", folder / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join([*(f"w{4 + number} w{5 + len(label)}" for _ in texts), label]) for number, label in labelled]
    (folder / "rows.csv").write_text("\n".join([",".join([*texts, "label"]), *lines]) + "\n")
    (folder / "new.csv").write_text("\n".join([",".join(texts), *([",".join(["w20 w21"] * len(texts))] * 2)]) + "\n")
    return folder / "new.csv", folder / "rows.csv"


def teach_one(models: ModelStore, name: str, examples: Path, rows: Path) -> None:
    found = regraft.teach(name, "new", examples, store=models.store, evaluation=rows, max_loss=100)
    before, after = (regraft.load(f"{name}@{version}", store=models.store) for version in ("v1", found.version))
    old, new = load_file(before.fetched.delta), load_file(after.fetched.delta)
    assert [key for key in old if old[key].shape != new[key].shape] == [
        key for key in old if len(old[key]) < len(new[key])
    ]
    assert after.labels == (*before.labels, "new")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(one, id=str(one), marks=() if one in [{"type": key} for key in QUICK] else pytest.mark.slow)
        for one in METHODS
    ],
)
def test_a_class_is_taught_to_models_of_every_method(
    method: dict[str, object], models: ModelStore, tmp_path: Path
) -> None:
    name = "-".join(str(value).lower() for value in method.values())
    models.add("text-classification", name, method)
    examples, rows = rows_for(task_of("text-classification"), tmp_path)
    teach_one(models, name, examples, rows)
    texts = ["w5 w6", "w9 w4 w20"]
    before, after = (regraft.load(f"{name}@{version}", store=models.store) for version in ("v1", "v2"))
    torch.testing.assert_close(after.logits(texts)[:, :-1], before.logits(texts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", Task.names())
def test_a_task_teaches_or_is_refused_in_words(key: str, models: ModelStore, tmp_path: Path) -> None:
    name = f"task-{key}"
    models.add(key, name)
    if task_of(key).supports >= TEACHABLE:
        teach_one(models, name, *rows_for(task_of(key), tmp_path))
        return
    with pytest.raises(Unsupported, match="Train it again, with rows of the new class") as caught:
        regraft.teach(name, "new", tmp_path / "nothing.csv", store=models.store)
    assert caught.value.exit_code == 2 and caught.value.where == f"{name}@v1"
