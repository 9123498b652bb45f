"""A user's own task, method, loss and source: one file each, no other edit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import regraft
from regraft.errors import RegraftError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.runs import Runs
from support.processes import in_child, train_counted, train_plain
from support.tiny import document

FILES = {
    "tasks/shouting.py": '''
from typing import ClassVar
from regraft.tasks.text_classification import TextClassification


class Shouting(TextClassification):
    """Text classification that reads everything in capitals."""

    ends: str = "!"
    """What is put behind each text."""

    def encode(self, row, context, *, train):
        return super().encode({**row, "text": row["text"].upper() + self.ends}, context, train=train)
''',
    "methods/biases.py": '''
from regraft.contracts import Method, under


class Biases(Method):
    """Only biases and the head move (BitFit, Zaken et al., 2022)."""

    def adapt(self, model, anatomy):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or under(name, anatomy.head))
''',
    "losses/still.py": '''
import torch
from torch import nn
from regraft.contracts import Loss


class Term(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(1))

    def forward(self, step):
        return (self.scale * step.features.square().mean(dim=0)).mean()


class Still(Loss):
    """Keeps features small, by a scale of its own that is trained and checkpointed."""

    def build(self, model, anatomy):
        return Term()
''',
    "sources/pipes.py": '''
from regraft.contracts import Raw, Source
from regraft.errors import DataError


class Pipes(Source):
    """`label|text` lines."""

    suffixes = (".pipes",)

    def read(self, path):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            label, bar, text = line.partition("|")
            if not bar:
                raise DataError("there is no | in this line", where=f"{path}:{number}")
            yield Raw({"label": label, "text": text}, f"{path}:{number}")
''',
}


def plugins_in(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_plugin_folder_trains_resumes_registers_and_predicts(tmp_path: Path) -> None:
    folder = plugins_in(tmp_path / "mine")
    written = document(tmp_path, method="biases", checkpoint_steps=3, baselines=True)
    rows = [line.rsplit(",", 1) for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    (tmp_path / "train.pipes").write_text("".join(f"{label}|{text}\n" for text, label in rows))
    written |= {
        "plugins": [str(folder)],
        "task": {"type": "shouting", "ends": "!!"},
        "losses": [{"type": "still", "weight": 0.1}],
        "data": {"train": str(tmp_path / "train.pipes"), "eval": str(tmp_path / "eval.csv")},
    }
    assert in_child(train_counted, written, str(tmp_path / "journal"), 1) == -9  # before the first checkpoint
    assert in_child(train_counted, written, str(tmp_path / "journal"), 7) == -9
    assert in_child(train_counted, written, str(tmp_path / "journal")) == 0
    straight = {**written, "store": str(tmp_path / "straight")}
    assert in_child(train_plain, straight) == 0
    deltas = [
        (Path(spec["store"]) / "models" / "tiny" / "v1" / "delta.safetensors").read_bytes()
        for spec in (written, straight)
    ]
    assert deltas[0] == deltas[1]

    info = Runs(open_store(written["store"])).find(RunSpec.resolve(written).run)
    assert info is not None and info["state"] == "registered"
    model = regraft.load("tiny", store=written["store"], plugins=[folder])
    answers = model.predict(["the lamp is off", {"text": "refund my invoice"}])
    assert [set(answer) >= {"label", "score"} for answer in answers] == [True, True]
    held = json.loads((Path(written["store"]) / "models/tiny/v1/manifest.json").read_text())["meta"]
    assert held["task"] == {"type": "shouting", "ends": "!!", "max_length": None, "pooling": "auto"}


def test_two_plugins_of_one_name_are_refused_by_both_paths(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "methods").mkdir(parents=True)
    (folder / "methods" / "lora.py").write_text(FILES["methods/biases.py"])
    written = document(tmp_path, method="lora") | {"plugins": [str(folder)]}
    code = "import json,sys; from regraft.spec.run import RunSpec; RunSpec.resolve(json.loads(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(written)], capture_output=True, text=True)
    assert "methods/lora.py" in done.stderr and "the platform's own lora" in done.stderr


def test_a_plugin_that_does_not_import_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "broken_one.py").write_text("import nothing_of_that_name\n")
    written = document(tmp_path) | {"plugins": [str(tmp_path)], "task": "broken-one"}
    with pytest.raises(RegraftError, match=r"broken_one\.py failed: ModuleNotFoundError"):
        RunSpec.resolve(written)
