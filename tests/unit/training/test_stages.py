"""Stages: each is an ordinary run whose model is the base of the next; one spec and one command train them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import regraft
from regraft import load
from regraft.cli import main
from regraft.contracts import Event, Note
from regraft.errors import DataError, SpecError
from regraft.spec.run import RunSpec
from regraft.spec.stages import default_method
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.store.runs import Runs
from regraft.training.session import train_local
from support.processes import in_child, train_chain
from support.tiny import document, tickets


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))


def staged(folder: Path, *more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a spec with a stage on the texts of its own rows, and `more` stages after that."""
    written = document(folder, rows=24, eval_rows=12, epochs=1, **changes)
    first = {"task": "masked-lm", "data": written["data"], "training": {"epochs": 1, "lr": 1e-3}}
    return {**written, "stages": [first, *more]}


def meta_of(store: str, name: str) -> Any:
    return Registry(open_store(store)).version(name).meta


def test_one_command_trains_the_chain_and_the_same_one_trains_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, events = staged(tmp_path), list[Event]()
    spec = RunSpec.resolve(written)
    outcome = train_local(spec, progress=events.append)
    assert outcome.run == spec.run and not outcome.already
    meta = meta_of(spec.store, "tiny")
    assert meta["lineage"]["ancestors"] == ["tiny-stage-1@v1", str(tmp_path / "base")]
    assert meta_of(spec.store, "tiny-stage-1")["task"]["type"] == "masked-lm"
    assert any("stage 1 of 1: task masked-lm" in one.message for one in events if isinstance(one, Note))
    assert train_local(RunSpec.resolve(written)).already
    stored = Runs(open_store(spec.store)).read(spec.run, "spec.yaml").decode()
    again = RunSpec.resolve(yaml.safe_load(stored))
    assert again.base == "model:tiny-stage-1@v1" and again.run == spec.run and train_local(again).already
    assert len(Runs(open_store(spec.store)).list()) == 2
    assert main(["models", "show", "tiny", "--store", spec.store]) == 0
    assert "tiny-stage-1@v1 < " in " ".join(capsys.readouterr().out.split())
    assert load("tiny", store=spec.store).predict(["my lamp is not on"])


@pytest.mark.slow
def test_a_killed_chain_goes_on_where_it_was_and_ends_bit_identical(tmp_path: Path) -> None:
    second = {"task": "masked-lm", "data": {"train": str(tmp_path / "a" / "eval.csv")}, "training": {"epochs": 1}}
    straight = staged(tmp_path / "a", second)
    assert in_child(train_chain, straight, str(tmp_path / "ja")) == 0
    killed = {**straight, "store": str(tmp_path / "b-store")}
    for name in ("tiny-stage-1", "tiny-stage-2", "tiny"):
        assert in_child(train_chain, killed, str(tmp_path / "jb"), name) == -9
    assert in_child(train_chain, killed, str(tmp_path / "jb")) == 0
    for name in ("tiny-stage-1", "tiny-stage-2", "tiny"):
        one, other = meta_of(straight["store"], name), meta_of(killed["store"], name)
        assert one["delta_sha256"] == other["delta_sha256"], name
    assert meta_of(killed["store"], "tiny")["lineage"]["ancestors"][:2] == ["tiny-stage-2@v1", "tiny-stage-1@v1"]


def test_what_a_stage_leaves_out_is_the_run_s(tmp_path: Path) -> None:
    written = staged(tmp_path, batch_size=4, seed=7, label_smoothing=0.1, steps=3)
    (stage,) = RunSpec.resolve(written).stage_runs()
    assert stage.base == written["base"] and stage.store == written["store"] and stage.name == "tiny-stage-1"
    assert (stage.training.batch_size, stage.training.seed) == (4, 7)
    assert (stage.training.label_smoothing, stage.training.steps, stage.training.lr) == (0.0, None, 1e-3)
    for method, wanted in (("feature-extraction", "full"), ("prototypes", "full"), ("lora", "lora")):
        (stage,) = RunSpec.resolve({**written, "method": method, "training": {}}).stage_runs()
        assert stage.method.key() == wanted


@pytest.mark.parametrize("method", ["setfit", "lp-ft", "gradual-unfreezing"])
def test_a_method_that_may_not_fit_a_stage_is_not_the_stage_s(method: str, tmp_path: Path) -> None:
    (stage,) = RunSpec.resolve({**staged(tmp_path), "method": method}).stages
    assert stage.method == default_method()


def test_a_stage_that_is_trained_again_begins_another_run(tmp_path: Path) -> None:
    written, events = staged(tmp_path), list[Event]()
    texts = tickets(tmp_path / "corpus.csv", 24, seed=7)
    written["stages"][0]["data"] = {**written["data"], "train": str(texts)}
    first = train_local(RunSpec.resolve(written))
    tickets(texts, 30, seed=8)
    second = train_local(RunSpec.resolve(written), progress=events.append)
    assert (first.version, second.version, second.already) == ("v1", "v2", False)
    assert any("a stage was trained again since run" in one.message for one in events if isinstance(one, Note))
    assert meta_of(second.store, "tiny")["lineage"]["ancestors"][0] == "tiny-stage-1@v2"
    assert train_local(RunSpec.resolve(written)).version == "v2"


def test_a_spec_without_stages_has_the_name_and_the_document_that_it_had(tmp_path: Path) -> None:
    written = document(tmp_path, rows=24)
    spec = RunSpec.resolve(written)
    assert "stages" not in spec.model_dump(mode="json")
    assert RunSpec.resolve({**written, "stages": []}).run == spec.run
    assert RunSpec.resolve(staged(tmp_path)).run != spec.run


@pytest.mark.slow
def test_a_search_begins_with_the_model_of_the_stages(tmp_path: Path) -> None:
    space = {"training.lr": {"choice": [1e-3, 1e-2]}}
    written = {**staged(tmp_path, method="feature-extraction"), "search": {"space": space, "trials": 2}}
    outcome = regraft.search(written)
    meta = meta_of(written["store"], "tiny")
    assert meta["lineage"]["ancestors"][0] == "tiny-stage-1@v1" and len(outcome.trials) == 2
    assert regraft.search(written).already, "the search is found again, though its base follows from the stages"
    assert len(Registry(open_store(written["store"])).versions("tiny-stage-1")) == 1


STAGE = {"task": "masked-lm", "data": {"train": "rows.csv"}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stages": [{**STAGE, "tasks": 1}]}, "stages.0.tasks: Unknown key"),
        ({"stages": [{"task": "masked-lm"}]}, "stages.0.data: is missing"),
        ({"stages": [{**STAGE, "task": "maskd-lm"}]}, "masked-lm"),
        ({"stages": [{**STAGE, "training": {"learning_rate": 1}}]}, "lr"),
        ({"stages": [{**STAGE, "method": "feature-extraction"}]}, r"stages.0.method: .*trains the head alone"),
        ({"stages": [{**STAGE, "task": "image-classification"}]}, r"stages.0.task: .*reads image"),
        ({"stages": [STAGE, {**STAGE, "base": "org/other"}]}, "stages.1.base"),
        ({"stages": [{**STAGE, "base": "org/other"}]}, r"stages.0.base: .*twice"),
        ({"stages": [STAGE], "training": {"init": "random"}}, "would forget what the stages trained"),
        ({"stages": [{**STAGE, "training": {"label_smoothing": 0.1}}]}, r"stages.0: training.label_smoothing"),
        ({"stages": [STAGE], "name": "x" * 60}, "stages.0: name: "),
        ({"stages": "masked-lm"}, "stages: "),
    ],
)
def test_a_stage_that_cannot_be_is_refused_in_words(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        RunSpec.resolve({**document(tmp_path, rows=24), **changes})
    assert len(caught.value.problems) == 1


def test_rows_of_the_run_are_checked_before_its_stages_train(tmp_path: Path) -> None:
    written = staged(tmp_path)
    (tmp_path / "eval.csv").rename(tmp_path / "other.csv")
    written["stages"][0]["data"] = {"train": written["data"]["train"]}
    with pytest.raises(DataError, match=r"eval\.csv"):
        train_local(RunSpec.resolve(written))
    assert not Runs(open_store(written["store"])).list()


def test_the_section_is_shown_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "stages", "--json"]) == 0
    fields = {field["name"]: field for field in json.loads(capsys.readouterr().out)["fields"]}
    assert fields["task"]["required"] and not fields["method"]["required"]
