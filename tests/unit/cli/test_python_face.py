"""`regraft.train` accepts a spec in every form, and `regraft.load` finds the store as the commands do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import regraft
import regraft.cluster.train
from doubles.fake_training import DOCUMENT, FakeTraining, publish
from regraft.cli import python_progress
from regraft.contracts import Note, Stepped
from regraft.errors import RequestError, SpecError
from regraft.evaluation import evaluate as evaluation
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.spec.serve import ServeSpec
from regraft.store.objects import open_store


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """A fake of the module that training is imported from."""
    found = FakeTraining()
    monkeypatch.setattr(regraft.cluster.train, "train", found)
    return found


@pytest.mark.parametrize("form", ["path", "text", "mapping", "spec"])
def test_a_spec_may_be_a_file_a_mapping_or_an_object(form: str, spec: Path, fake: FakeTraining) -> None:
    given: Any = {"path": spec, "text": str(spec), "mapping": DOCUMENT, "spec": RunSpec.resolve(DOCUMENT)}[form]
    outcome = regraft.train(given, overrides={"training.lr": 0.5}, fresh=True)
    assert outcome.model == "tickets"
    found, options = fake.calls[-1]
    assert found.training.lr == 0.5
    assert options == {"fresh": True, "same": False, "address": None}


def test_a_wrong_override_is_refused_before_anything_starts(spec: Path, fake: FakeTraining) -> None:
    with pytest.raises(SpecError, match="Did you mean 'lr'"):
        regraft.train(spec, overrides={"training.lrr": 0.5})
    assert fake.calls == []


def test_the_store_of_load_is_the_argument_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Predictor, "open", lambda *args, **options: asked.append((*args, options)))
    regraft.load("tickets@production")
    monkeypatch.setenv("REGRAFT_STORE", "s3://bucket")
    regraft.load("tickets", plugins=[tmp_path])
    regraft.load("tickets", store="here")
    assert [call[0] for call in asked] == ["./regraft-store", "s3://bucket", "here"]
    assert asked[1][1:] == ("tickets", {"plugins": [tmp_path]})


def test_the_store_is_the_argument_then_what_is_written_then_the_environment(
    spec: Path, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def store_of(given: Any, **options: Any) -> str:
        regraft.train(given, **options)
        return Path(fake.calls[-1][0].store).name

    assert store_of(DOCUMENT) == "regraft-store"
    monkeypatch.setenv("REGRAFT_STORE", str(tmp_path / "from-environment"))
    assert store_of(DOCUMENT) == "from-environment", "train and load find the same store"
    assert store_of(RunSpec.resolve(DOCUMENT)) == "from-environment"
    assert store_of({**DOCUMENT, "store": "written"}) == "written"
    assert store_of(spec) == "from-environment", "as `regraft train` has it for a file"
    for given in (DOCUMENT, {**DOCUMENT, "store": "written"}, spec, RunSpec.resolve(DOCUMENT)):
        assert store_of(given, store="argument") == "argument"
        assert store_of(given, store=tmp_path / "path") == "path"
        assert store_of(given, overrides={"store": "override"}) == "override"
    with pytest.raises(RequestError, match="differently"):
        regraft.train(spec, store="one", overrides={"store": "other"})


def test_search_has_the_same_store(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunSpec] = []
    monkeypatch.setattr("regraft.tuning.validate.check_search", lambda spec: seen.append(spec))
    monkeypatch.setattr("regraft.cluster.anywhere.search_anywhere", lambda spec, **options: seen.append(spec))
    regraft.search(spec, store="argument")
    assert [Path(one.store).name for one in seen] == ["argument", "argument"]


def test_serving_a_mapping_obeys_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRAFT_STORE", str(tmp_path / "there"))
    assert ServeSpec.resolve({}).store == str(tmp_path / "there")
    assert ServeSpec.resolve({"store": str(tmp_path / "here")}).store == str(tmp_path / "here")


def test_predict_and_evaluate_find_the_store_as_load_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "there"))
    publish(store)
    monkeypatch.setenv("REGRAFT_STORE", store.url)
    asked: list[Any] = []
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **options: asked.append((args, options)))
    monkeypatch.setattr("regraft.serving.batch.session.predict_here", lambda request, **_: asked.append(request))
    regraft.evaluate("tickets", "my rows.csv")
    (opened, version, data), options = asked.pop()
    assert (opened.url, version, data) == (store.url, "tickets@v1", "my rows.csv")
    assert options["options"].output == Path("evaluation-tickets-v1-my-rows"), "the folder of `regraft evaluate`"
    regraft.evaluate("tickets@v1", "rows.csv", "there")
    assert asked.pop()[1]["options"].output == Path("there")
    regraft.predict("tickets", "rows.csv", "out.jsonl", workers=0)
    assert asked.pop().store == store.url


@pytest.mark.parametrize(
    "rows",
    [pd.DataFrame({"text": ["a"]}), pd.Series(["a"]), np.zeros((2, 2)), [{"text": "a"}]],
    ids=lambda r: type(r).__name__,
)
def test_rows_in_memory_are_refused_with_the_way_to_train_on_them(rows: Any, fake: FakeTraining) -> None:
    for given in (rows, {**DOCUMENT, "data": {"train": rows}}):
        with pytest.raises(RequestError, match="Rows in memory cannot be trained on yet") as refused:
            regraft.train(given)
        assert "data.train" in str(refused.value) and type(rows).__name__ in str(refused.value)
    with pytest.raises(RequestError, match="Rows in memory"):
        regraft.train(DOCUMENT, overrides={"data.eval": rows})
    with pytest.raises(RequestError, match="a spec is a mapping, a RunSpec, or the path"):
        regraft.train(3)  # type: ignore[arg-type]
    assert fake.calls == []


def test_the_package_has_no_names_but_its_own() -> None:
    code = "import regraft; print(*sorted(name for name in vars(regraft) if not name.startswith('_')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    functions = [
        "adapt",
        "auto",
        "create_store",
        "evaluate",
        "load",
        "plan",
        "predict",
        "search",
        "select",
        "teach",
        "train",
    ]
    assert done.stdout.split() == [*functions, "version"]
    assert isinstance(regraft.version, ModuleType)
    assert set(regraft.__all__) == {"__version__", *functions}


def test_progress_is_shown_where_somebody_watches(
    fake: FakeTraining, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.events = [Note("the rows are read"), Stepped(1, steps=4, loss=0.5)]
    fake.outcome = {"advice": "accuracy is worse than the baseline. Next: train longer"}
    regraft.train(DOCUMENT)
    assert capsys.readouterr().out == "", "a script's output stays its own"
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
    regraft.train(DOCUMENT)
    out = capsys.readouterr().out
    for text in ("the rows are read", "tickets@v1 is registered", "accuracy", "0.8750", "Next: train longer"):
        assert text in out
    seen: list[Any] = []
    regraft.train(DOCUMENT, progress=seen.append)
    assert capsys.readouterr().out == "" and seen == fake.events
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not python_progress.is_watched()
