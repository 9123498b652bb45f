"""A registered model is a base: its delta merged, the same on every machine, with its lineage kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft import load
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.derived_base import MOST_ANCESTORS, find_base
from regraft.bases.load import BaseLoader
from regraft.cli import main
from regraft.contracts import Event, Method, Note
from regraft.errors import NotFound, SpecError
from regraft.serving.batch.target import resolve_target
from regraft.spec.run import RunSpec
from regraft.store.machine_cache import cache_folder
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from support.image_bases import coloured_document
from support.tiny import document

LORA = {"type": "lora", "rank": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


def trained(folder: Path, **changes: Any) -> RunSpec:
    """Train a first model, `tiny`, and return a spec that has it as its base."""
    written = document(folder, epochs=1, rows=24, eval_rows=12, lr=1e-2, method=changes.pop("method", "full"))
    train_local(RunSpec.resolve({**written, **changes}))
    return RunSpec.resolve({**written, "name": "next", "base": "model:tiny", "method": "feature-extraction"})


@pytest.mark.parametrize("method", ["full", LORA, {"type": "freeze", "depth": 1}])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_base_answers_as_the_model(tmp_path: Path, method: Any, pooling: str) -> None:
    spec = trained(tmp_path, method=method, task={"type": "text-classification", "pooling": pooling})
    model = load("tiny", store=spec.store)
    base = find_base(open_store(spec.store), "model:tiny")
    encoder = BaseLoader(base)("AutoModel").eval()
    adapted = model.adapted
    inside = getattr(adapted.model, adapted.anatomy.prefix)
    ids = torch.tensor([[2, 9, 10, 11, 3]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        wanted, found = (one(**batch).last_hidden_state for one in (inside, encoder))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["full", {"type": "lora", "rank": 2, "targets": "conv"}])
def test_pictures_and_known_labels_begin_where_the_model_ended(tmp_path: Path, method: Any) -> None:
    written = coloured_document(tmp_path, each={"train": 3, "eval": 2}, epochs=1)
    train_local(RunSpec.resolve({**written, "method": method}))
    model = load("tiny", store=written["store"]).adapted
    base = find_base(open_store(written["store"]), "model:tiny")
    frozen = Method.parse("feature-extraction")
    assert isinstance(frozen, Method)
    labels = tuple(model.context.labels)
    child = adapt(base, Adaptation(task=model.task, method=frozen, labels=labels, seed=1))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = (one.model(pixel_values=pixels).logits for one in (model, child))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_lineage_is_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, events = trained(tmp_path, method=LORA), list[Event]()
    assert spec.base == "model:tiny@v1", "the version is pinned when the spec is resolved"
    train_local(spec, progress=events.append)
    third = spec.model_copy(update={"name": "third", "base": "model:next@v1"})
    train_local(third)
    meta = Registry(open_store(spec.store)).version("third").meta
    assert meta["base"]["reference"] == "model:next@v1" and meta["lineage"]["parent"] == "next@v1"
    assert meta["lineage"]["ancestors"] == ["next@v1", "tiny@v1", str(tmp_path / "base")]
    assert any("the base is a registered model: tiny@v1" in one.message for one in events if isinstance(one, Note))
    assert main(["models", "show", "third", "--store", spec.store]) == 0
    assert "next@v1 < tiny@v1" in " ".join(capsys.readouterr().out.split())
    answers = load("third", store=spec.store).predict(["my lamp is not on"])
    shutil.rmtree(cache_folder("bases"))
    assert load("third", store=spec.store).predict(["my lamp is not on"]) == answers, "made again on another machine"


def test_an_alias_is_pinned_and_the_name_of_the_run_holds_the_version(tmp_path: Path) -> None:
    spec = trained(tmp_path)
    registry = Registry(open_store(spec.store))
    registry.promote("tiny", "v1", "production")
    written = {**spec.model_dump(mode="json"), "base": "model:tiny@production"}
    assert RunSpec.resolve(written) == spec
    assert spec.run == RunSpec.resolve(spec.model_dump(mode="json")).run


def test_features_may_be_those_of_a_model_that_is_a_base(tmp_path: Path) -> None:
    spec = trained(tmp_path)
    target = resolve_target("model:tiny", spec.store, features=True)
    assert target.base == "model:tiny@v1", "the version is pinned for every worker"
    assert target.located() == find_base(open_store(spec.store), "model:tiny@v1")


@pytest.mark.parametrize(
    ("base", "problem"),
    [("model:tinny", "tiny"), ("model:tiny@v7", "v7"), ("model:tiny@prod", "prod")],
)
def test_a_model_that_is_not_there_is_one_message(
    tmp_path: Path, base: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = trained(tmp_path)
    document_of = {**spec.model_dump(mode="json"), "base": base}
    with pytest.raises(NotFound, match=problem):
        train_local(RunSpec.resolve(document_of))
    (tmp_path / "spec.yaml").write_text(spec.dump().replace("model:tiny@v1", base))
    assert main(["train", str(tmp_path / "spec.yaml")]) == 2
    assert capsys.readouterr().err.count("error") <= 1


@pytest.mark.parametrize("base", ["model:", "model:Upper", "model:a@B@c"])
def test_a_name_that_no_model_has_is_one_message(tmp_path: Path, base: str) -> None:
    with pytest.raises(SpecError, match="base") as caught:
        RunSpec.resolve({**document(tmp_path, rows=24), "base": base})
    assert len(caught.value.problems) == 1


def test_a_chain_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="are each the base of the next"):
        find_base(open_store(str(tmp_path)), "model:a@v1", ancestors=MOST_ANCESTORS + 1)
