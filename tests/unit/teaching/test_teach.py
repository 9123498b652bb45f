"""A class that is taught: what the new version holds, what is measured of it, and what is refused."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import regraft
from regraft.bases.derived_base import find_base
from regraft.cli import main
from regraft.contracts import Note
from regraft.errors import DataError, RequestError
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from support.image_bases import coloured, tiny_resnet
from support.local_s3 import local_server
from support.tiny import document
from unit.store.conftest import moto_endpoint as moto_endpoint
from unit.teaching.conftest import FRESH


def taught(store: str, rows: Any, label: str = "weather", **options: Any) -> Any:
    return regraft.teach(options.pop("model", "tiny"), label, rows, store=store, **options)


def recall(store: str, reference: str, path: Path) -> dict[str, float]:
    """Return the recall of each label among the rows of a file, by the version's answers."""
    lines = [line.rsplit(",", 1) for line in path.read_text().splitlines()[1:]]
    answers = regraft.load(reference, store=store).predict([text.strip('"') for text, _ in lines])
    found: dict[str, list[bool]] = {}
    for (_, label), answer in zip(lines, answers, strict=True):
        found.setdefault(label, []).append(answer["label"] == label)
    return {label: sum(right) / len(right) for label, right in found.items()}


def test_the_new_version_is_the_delta_of_before_and_one_row(trained: Path, store: str) -> None:
    before = regraft.load("tiny@v1", store=store)
    found = taught(store, trained / "new.csv")
    after = regraft.load("tiny", store=store)
    assert (found.model, found.version, after.name) == ("tiny", "v2", "tiny@v2")
    assert after.labels == (*before.labels, "weather")
    old, new = load_file(before.fetched.delta), load_file(after.fetched.delta)
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        assert torch.equal(new[name][: len(tensor)], tensor)
    assert sorted(len(new[name]) - len(old[name]) for name in old) == [1, 1]
    assert {answer["label"] for answer in after.predict(FRESH)} == {"weather"}
    assert regraft.load("tiny@v1", store=store).hash == before.hash


def test_the_effect_is_what_the_versions_answer(trained: Path, store: str) -> None:
    found = taught(store, trained / "new.csv", max_loss=100)
    wanted = [recall(store, f"tiny@{version}", trained / "eval.csv") for version in ("v1", "v2")]
    for one in found.facts["effect"][:-1]:
        assert (one["before"], one["after"]) == pytest.approx([side[one["label"]] for side in wanted])
        assert one["rows"] == 20
    assert found.facts["effect"][-1] == {"label": "weather", "rows": 0, "before": None, "after": None}
    assert found.facts["measured_on"] == {"source": "version", "rows": 60, "of": 60}


def test_metadata_card_and_metrics_are_those_of_the_new_version(trained: Path, store: str, tmp_path: Path) -> None:
    found = taught(store, trained / "new.csv")
    registry = Registry(open_store(store))
    before, after = registry.version("tiny", "v1").meta, registry.version("tiny", "v2").meta
    evaluated = regraft.evaluate("tiny", trained / "eval.csv", tmp_path / "out", store=store, resamples=0).document
    assert after["metrics"] == pytest.approx(evaluated["metrics"], rel=1e-2, abs=1e-3)
    assert after["metrics"]["accuracy"] == evaluated["metrics"]["accuracy"]
    seen = "These are the evaluation rows by which its checkpoint was chosen"
    assert evaluated["overlap"]["sentence"].startswith(seen) and "taught afterwards" in evaluated["overlap"]["sentence"]
    for name in ("task", "method", "base", "seed", "score", "dropout"):
        assert after[name] == before[name]
    assert after["lineage"]["taught"] == [dict(found.facts)] and after["lineage"]["run"] == before["lineage"]["run"]
    assert not {"gain", "gains", "test"} & {name for name, value in after.items() if value} and not after["baselines"]
    card = (registry.fetch(registry.version("tiny", "v2"), tmp_path / "v2") / "card.md").read_text()
    assert "It knows 4 labels" in card and "## Taught afterwards: `weather`" in card
    assert "No row of `weather` is in these metrics" in card


def test_the_command_says_what_it_did_and_promotes(
    trained: Path, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["teach", "tiny@v1", str(trained / "new.csv"), "--class", "weather", "--store", store]
    assert main([*argv, "--promote", "production"]) == 0
    shown = capfd.readouterr().out
    assert "tiny@v2 knows weather" in shown and "tiny@production is now v2" in shown and "rollback" in shown
    assert main(["models", "show", "tiny@production", "--store", store]) == 0
    shown = capfd.readouterr().out
    assert "taught: weather" in shown and "on tiny@v1" in shown and "recall before" in shown
    assert "no row of weather is in these metrics" in shown
    assert main([*argv[:4], "rain", *argv[5:], "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["version"], document["class"], document["from"]) == ("v3", "rain", "v1")


def test_a_class_that_would_lose_too_much_stops_it(trained: Path, store: str) -> None:
    """The examples are rows of another class, so that its own rows move."""
    rows = [
        line.rsplit(",", 1)[0].strip('"')
        for line in (trained / "train.csv").read_text().splitlines()
        if "light" in line
    ]
    with pytest.raises(
        RequestError, match=r"would lose more than --max-loss 0: .*points .*Pass --max-loss \d+"
    ) as error:
        taught(store, [{"text": text} for text in rows], max_loss=0, evaluation=trained / "train.csv")
    assert error.value.exit_code == 2
    assert len(Registry(open_store(store)).versions("tiny")) == 1
    assert (
        taught(store, [{"text": text} for text in rows], max_loss=50, evaluation=trained / "train.csv").version == "v2"
    )


def test_a_second_class_spares_the_first_one(trained: Path, store: str) -> None:
    taught(store, trained / "new.csv")
    found = taught(store, [{"text": f"red blue red {word}"} for word in ("old", "new", "with")], "colour")
    meta = Registry(open_store(store)).version("tiny").meta
    assert meta["labels"][-2:] == ["weather", "colour"]
    assert [one["class"] for one in meta["lineage"]["taught"]] == ["weather", "colour"]
    weather = next(one for one in found.facts["effect"] if one["label"] == "weather")
    assert (weather["rows"], weather["before"]) == (10, 1.0)
    answers = regraft.load("tiny", store=store).predict(["cloud timer cloud", "red blue red"])
    assert [answer["label"] for answer in answers] == ["weather", "colour"]


def test_a_version_without_features_is_measured_on_the_rows_of_its_training(
    trained: Path, store: str, without_features: Callable[[], None]
) -> None:
    without_features()
    found = taught(store, trained / "new.csv", model="tiny@v2")
    kept = taught(store, trained / "new.csv", model="tiny@v1")
    assert found.facts["measured_on"] == {"source": "snapshot", "rows": 60, "of": 60}
    assert found.facts["bias"] == pytest.approx(kept.facts["bias"], rel=1e-2)
    assert found.facts["effect"] == kept.facts["effect"]


def test_rows_to_measure_on_may_be_given_and_hold_the_new_class(
    trained: Path, store: str, without_features: Callable[[], None]
) -> None:
    without_features()
    shutil.rmtree(trained / "store" / "data")
    with pytest.raises(RequestError, match="no longer holds the rows of its training: pass --eval ROWS"):
        taught(store, trained / "new.csv")
    rows = trained / "rows.csv"
    rows.write_text((trained / "eval.csv").read_text() + "timer cloud please,weather\ncloud cloud timer,weather\n")
    found = taught(store, trained / "new.csv", evaluation=rows)
    assert found.facts["measured_on"]["source"] == "rows"
    assert found.facts["effect"][-1] == {"label": "weather", "rows": 2, "before": None, "after": 1.0}
    rows.write_text("text,label\ntimer cloud please,weather\n")
    with pytest.raises(RequestError, match="no row there is of a class that the model has"):
        taught(store, trained / "new.csv", model="tiny@v2", evaluation=rows)


WRONG: dict[str, tuple[list[str], str, list[str], str]] = {
    "a class that it has": (["text", "a b"], "light", [], "has the class 'light' already"),
    "a name on two lines": (["text", "a b"], "new\nname", [], "a name on one line"),
    "no name": (["text", "a b"], " ", [], "a name on one line"),
    "rows of another class": (
        ["text,label", "the lamp,light", "the bulb,light"],
        "weather",
        [],
        "its label is 'light'",
    ),
    "no column": (["body", "a b"], "weather", [], "has no column 'text'"),
    "no rows": (["text"], "weather", [], "holds no rows"),
    "an empty text": (["text,more", ",x"], "weather", [], "text is empty"),
    "a limit beyond all": (["text", "a b"], "weather", ["--max-loss", "101"], "0 to 100 points"),
    "an alias like a version": (["text", "a b"], "weather", ["--promote", "v7"], "would read as a version"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_asked_wrong_is_2_and_publishes_nothing(
    case: str, trained: Path, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lines, label, options, message = WRONG[case]
    (trained / "wrong.csv").write_text("\n".join(lines) + "\n")
    assert main(["teach", "tiny", str(trained / "wrong.csv"), "--class", label, "--store", store, *options]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(Registry(open_store(store)).versions("tiny")) == 1


def test_rows_that_name_the_class_itself_are_its_examples(trained: Path, store: str) -> None:
    (trained / "new.csv").write_text("subject,kind\ncloud timer,weather\ntimer cloud cloud,weather\n")
    found = taught(store, trained / "new.csv", columns={"text": "subject", "label": "kind"})
    assert found.facts["rows"] == 2


def test_two_teachings_at_once_are_two_versions_and_one_is_named(trained: Path, store: str) -> None:
    notes: list[str] = []
    start = threading.Barrier(2)

    def run(label: str) -> None:
        start.wait()
        taught(
            store,
            trained / "new.csv",
            label,
            model="tiny@v1",
            progress=lambda event: notes.append(event.message) if isinstance(event, Note) else None,
        )

    threads = [threading.Thread(target=run, args=(label,)) for label in ("weather", "clouds")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry = Registry(open_store(store))
    found = [version.meta["labels"][-1] for version in registry.versions("tiny")[1:]]
    assert sorted(found) == ["clouds", "weather"]
    assert (
        taught(
            store, trained / "new.csv", "rain", model="tiny@v1", progress=lambda event: notes.append(event.message)
        ).version
        == "v4"
    )
    assert any("tiny@v4 was taught from tiny@v1, as was tiny@v2" in text for text in notes)


@pytest.mark.slow
def test_a_taught_version_is_exported_and_a_base(trained: Path, store: str, tmp_path: Path) -> None:
    written = document(tmp_path / "cls", method="feature-extraction", rows=30, eval_rows=12, epochs=1)
    shutil.rmtree(tmp_path / "cls" / "base" / "1_Pooling")
    regraft.train({**written, "store": store, "name": "cls"}, progress=lambda event: None)
    taught(store, trained / "new.csv", model="cls", max_loss=100)
    assert main(["models", "export", "cls", str(tmp_path / "out"), "--store", store]) == 0
    from transformers import pipeline

    exported = pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    asked = [*FRESH[:2], "the lamp is off"]
    for ours, theirs in zip(regraft.load("cls", store=store).predict(asked), exported(asked), strict=True):
        there = {one["label"]: one["score"] for one in theirs}
        assert {one["label"]: one["score"] for one in ours["scores"]} == pytest.approx(there, abs=1e-5)
    assert find_base(open_store(store), "model:cls").ancestors[0] == "cls@v2"


def test_a_picture_model_learns_a_colour_and_refuses_a_text_file(trained: Path, store: str, tmp_path: Path) -> None:
    pictures = coloured(tmp_path / "pictures", each=8, seed=1)
    shutil.move(pictures / "red", tmp_path / "red")
    base = tiny_resnet(tmp_path / "resnet")
    written = document(tmp_path, method="prototypes") | {"name": "colours", "base": str(base), "store": store}
    written |= {"task": "image-classification", "data": {"train": str(pictures), "eval": 0.5}}
    regraft.train(written, progress=lambda event: None)
    with pytest.raises(DataError, match="has no column 'image'"):
        taught(store, trained / "new.csv", "red", model="colours")
    with pytest.raises(DataError, match="its label is 'blue'"):
        taught(store, pictures, "red", model="colours")
    assert taught(store, tmp_path / "red", "red", model="colours", max_loss=100).facts["rows"] == 8
    shown = sorted((tmp_path / "red").iterdir())[:3]
    answers = regraft.load("colours", store=store).predict([str(path) for path in shown])
    assert [answer["label"] for answer in answers].count("red") >= 2


@pytest.mark.slow
def test_a_model_of_a_store_in_s3_is_taught(
    trained: Path, store: str, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = taught(store, trained / "new.csv")
    local_server(monkeypatch, moto_endpoint)
    there = open_store("s3://tests/taught")
    for path in (trained / "store" / "models" / "tiny" / "v1").rglob("*"):
        if path.is_file():
            there.put(path.relative_to(trained / "store").as_posix(), path)
    found = taught("s3://tests/taught", trained / "new.csv", promote="production")
    assert (found.version, found.facts["bias"]) == ("v2", here.facts["bias"])
    assert Registry(there).aliases("tiny") == {"production": "v2"}
