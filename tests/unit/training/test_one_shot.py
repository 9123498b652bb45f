"""A head is solved from one row a class, where nothing is left to evaluate on: the run says what it cannot measure."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.cli import main
from regraft.contracts import Event, Note
from regraft.errors import DataError
from regraft.spec.run import RunSpec
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from regraft.training.session import train_local
from regraft.tuning.driver.local_worker import search_here
from support.image_bases import coloured, tiny_resnet
from support.tiny import document


def pictures(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": str(tiny_resnet(folder / "base")),
        "task": "image-classification",
        "method": "prototypes",
        "data": {"train": str(coloured(folder / "train", each=1, seed=1))},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
        **changes,
    }


def test_a_folder_with_one_picture_a_class_trains_and_is_evaluated(tmp_path: Path) -> None:
    events: list[Event] = []
    outcome = train_local(RunSpec.resolve(pictures(tmp_path)), progress=events.append)
    said = "each of the 3 classes has one row, so that none is left to evaluate on: nothing is measured"
    assert any(said in event.message for event in events if isinstance(event, Note))
    assert outcome.metrics == {} and outcome.verdicts == outcome.advice == ""
    version = Registry(open_store(outcome.store)).version("tiny")
    assert version.meta["metrics"] == {} and said in version.meta["lineage"]["data"]["notes"][0]
    assert version.meta["lineage"]["data"]["rows"] == {"train": 3, "eval": 0}

    rows = coloured(tmp_path / "rows", each=5, seed=9)
    result = regraft.evaluate("tiny", rows, tmp_path / "page", store=outcome.store, resamples=0)
    assert result.document["metrics"]["accuracy"] == 1.0 and result.document["recorded"]["metrics"] == {}


def test_the_commands_say_that_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = pictures(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text(RunSpec.resolve(written).dump())
    assert main(["train", str(path)]) == 0
    assert "accuracy  not measured: there are no evaluation rows" in capsys.readouterr().out
    for words in (["models", "list"], ["models", "show", "tiny"], ["runs", "list"]):
        assert main([*words, "--store", written["store"]]) == 0
    assert main(["models", "export", "tiny", str(tmp_path / "out"), "--store", written["store"]]) == 0
    assert "No metrics were recorded" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_test_rows_are_measured(tmp_path: Path) -> None:
    test = str(coloured(tmp_path / "test", each=4, seed=2))
    written = pictures(tmp_path)
    outcome = train_local(RunSpec.resolve({**written, "data": {**written["data"], "test": test}}))
    assert outcome.metrics == {} and (outcome.test or {})["metrics"]["accuracy"] == 1.0


def test_a_search_is_refused(tmp_path: Path) -> None:
    search = {"space": {"method.metric": {"choice": ["cosine", "euclidean"]}}}
    with pytest.raises(DataError, match="a search compares trials on evaluation rows"):
        search_here(RunSpec.resolve(pictures(tmp_path, search=search)))


@pytest.mark.parametrize("method", ["full", "feature-extraction"])
def test_methods_with_steps_are_refused_with_what_to_do(method: str, tmp_path: Path) -> None:
    written = document(tmp_path, method=method)
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], ["my lamp", "light"], ["my invoice", "money"]])
    with pytest.raises(DataError, match=f"method {method} chooses its checkpoint there: name a file of rows"):
        train_local(RunSpec.resolve({**written, "data": {"train": str(tmp_path / "train.csv")}}))
