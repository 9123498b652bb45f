"""The README of an exported folder opens with code that runs, and `pipeline` answers as the model does, or raises."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer

from regraft.bases.load import quiet
from regraft.bases.locate import Base
from regraft.columns.audio import wav
from regraft.contracts import Task
from regraft.serving.export import Exported, export
from regraft.serving.predictor import Predictor
from unit.every.rows import base_of, family_of, method_of, task_of
from unit.every.test_every_pair import fitted, publish
from unit.serving import tiny

PIPELINES = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    def base(family: str) -> Base:
        return base_of(family, tmp_path_factory.mktemp(family))

    return base


@pytest.fixture
def exported(
    bases: Callable[[str], Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[Predictor, Exported]]:
    """Publish and export a model of a task, on the family that suits it."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))

    def make(key: str) -> tuple[Predictor, Exported]:
        family = family_of(key)
        publish(tmp_path / "store", fitted(key, family, method_of(key), bases(family)))
        model = Predictor.open(str(tmp_path / "store"), "tiny", device="cpu")
        return model, export(str(tmp_path / "store"), "tiny", tmp_path / "out")

    return make


def code_of(folder: Path) -> str:
    """Return the first block of code in the README, which stands above every heading but the title's."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    before, code, _ = re.split(r"```python\n(.*?)```", text, maxsplit=1, flags=re.S)
    assert before.count("\n# ") == 1 and "\n## " not in before
    return str(code)


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run code in a folder and return what it prints."""
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), quiet():
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


@pytest.mark.parametrize("key", Task.names())
def test_the_code_of_the_readme_runs_as_it_stands(exported: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = exported(key)
    assert run(code_of(out.folder), out.folder, monkeypatch).strip()


@pytest.mark.parametrize(
    "key", [key for key in Task.names() if task_of(key).api_form().view == "scores" and not task_of(key).export_code]
)
def test_a_pipeline_gives_the_scores_that_the_model_gives(exported: Any, key: str, tmp_path: Path) -> None:
    model, out = exported(key)
    task = model.adapted.task
    ask = transformers.pipeline(task.api_form().name, str(out.folder))
    if task.modality == "image":
        Image.radial_gradient("L").convert("RGB").save(tmp_path / "picture.png")
        rows, given = [{"image": str(tmp_path / "picture.png")}], str(tmp_path / "picture.png")
        found = ask(given, top_k=99)
    elif task.modality == "audio":
        samples = np.random.default_rng(0).integers(-3000, 3000, 10 * 8000).astype(np.int16)
        rows = [{"audio": wav(samples, 8000)}]  # as long as a window: silence at the end is no part of a pipeline
        found = ask((samples / 2**15).astype(np.float32), top_k=99)
    elif "pair" in task.input_columns():
        rows = [{"text": "my card was charged twice", "pair": "a"}]
        found = ask({"text": rows[0]["text"], "text_pair": rows[0]["pair"]}, top_k=None)
    else:
        rows = [{"text": "my card was charged twice"}]
        found = ask(rows[0]["text"], top_k=None)
    (answer,) = model.predict(rows)
    wanted = {item["label"]: item["score"] for item in task.api_form().render(answer, {})}
    assert {item["label"]: item["score"] for item in found} == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.fixture
def pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Export a classifier on mean-pooled tokens, for which transformers has no class."""
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    base = tiny.bert(tmp_path / "base", pooling="mean")
    tiny.publish(tmp_path / "store", base, "text-classification", "full")
    return export(str(tmp_path / "store"), "tiny", tmp_path / "out").folder


@pytest.mark.parametrize("name", ["text-classification", "token-classification", "feature-extraction", "fill-mask"])
def test_no_pipeline_makes_up_a_head_for_mean_pooled_tokens(pooled: Path, name: str) -> None:
    with quiet(), pytest.raises((OSError, ValueError)):
        transformers.pipeline(name, str(pooled))


@pytest.mark.parametrize("auto", ["AutoModelForSequenceClassification", "AutoModel", "AutoConfig"])
def test_no_class_of_transformers_takes_a_mean_pooled_folder_for_its_own(pooled: Path, auto: str) -> None:
    with quiet(), pytest.raises((OSError, ValueError)):
        getattr(transformers, auto).from_pretrained(pooled)


def test_a_mean_pooled_folder_runs_by_its_readme(pooled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run(code_of(pooled), pooled, monkeypatch)
    assert any(label in printed for label in tiny.LABELS["text-classification"])
    text = (pooled / "README.md").read_text()
    assert "library_name: sentence-transformers" in text and "pipeline_tag: feature-extraction" in text
    assert SentenceTransformer(str(pooled), device="cpu").encode(["a"]).shape == (1, 32)
