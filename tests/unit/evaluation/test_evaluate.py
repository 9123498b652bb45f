"""Evaluation of a version: its metrics are those of the rows, by every interface."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.cli import main
from regraft.contracts import Context, Example, Row
from regraft.data.rows import Rows
from regraft.errors import DataError, NotFound, RequestError
from regraft.evaluation.evaluate import evaluate
from regraft.evaluation.options import EvaluationOptions
from regraft.store.objects import open_store
from regraft.tasks.text_classification import TextClassification
from support.local_s3 import local_server
from unit.store.conftest import moto_endpoint as moto_endpoint


def answers(trained: Path, path: Path, reference: str = "tiny") -> list[tuple[str, str]]:
    """Return the true and the predicted label of every row, by the predictor."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    model = regraft.load(reference, store=str(trained / "store"))
    predicted = model.predict([{"text": row["text"]} for row in rows])
    return [(row["label"], answer["label"]) for row, answer in zip(rows, predicted, strict=True)]


def test_the_score_is_the_share_of_rows_that_the_model_answers_rightly(evaluated: Any, trained: Path) -> None:
    pairs = answers(trained, trained / "rows.csv")
    right = sum(true == predicted for true, predicted in pairs)
    document = evaluated().document
    assert 0 < right < len(pairs)
    assert document["metrics"]["accuracy"] == pytest.approx(right / len(pairs))
    assert document["wrong"] == len(pairs) - right
    assert document["data"]["rows"] == len(pairs)


def test_the_rows_of_training_give_the_figures_of_training(evaluated: Any, trained: Path) -> None:
    document = evaluated(trained / "eval.csv").document
    assert document["metrics"] == pytest.approx(document["recorded"]["metrics"], abs=1e-6)
    assert set(document["recorded"]["baselines"]) == {"majority", "nearest_centroid"}


def test_the_files_say_what_was_evaluated(evaluated: Any, trained: Path) -> None:
    found = evaluated(reference="tiny@v1")
    document = json.loads(found.json.read_text())
    manifest = regraft.load("tiny@v1", store=str(trained / "store"))
    assert (document["model"], document["version"], document["id"]) == ("tiny", "v1", manifest.hash)
    assert document["delta_sha256"] == manifest.meta["delta_sha256"]
    assert document["base"]["hash"] == manifest.meta["base"]["hash"]
    html = found.html.read_text()
    for expected in (manifest.hash, manifest.meta["delta_sha256"], manifest.meta["base"]["hash"], "rows.csv"):
        assert expected in html


def test_an_interval_holds_its_figure_and_has_its_name(evaluated: Any) -> None:
    document = evaluated(resamples=40).document
    assert set(document["intervals"]) == set(document["metrics"])
    for name, bounds in document["intervals"].items():
        assert bounds["low"] <= document["metrics"][name] <= bounds["high"]
    assert document["bootstrap"]["resamples"] == 40


def test_the_worst_rows_are_wrong_ones_with_the_largest_error_first(evaluated: Any, trained: Path) -> None:
    document = evaluated(worst=5).document
    wrong = {row for row, (true, predicted) in enumerate(answers(trained, trained / "rows.csv")) if true != predicted}
    shown = [item["row"] for item in document["worst"]]
    assert 0 < len(shown) == min(5, len(wrong)) and set(shown) <= wrong
    errors = [item["error"] for item in document["worst"]]
    assert errors == sorted(errors, reverse=True)


def test_columns_of_another_name_are_named(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text((trained / "rows.csv").read_text().replace("text,label", "review,stars", 1))
    with pytest.raises(DataError, match=r"has no column 'text', 'label'.*write in --columns"):
        evaluated(path)
    renamed = evaluated(path, columns={"text": "review", "label": "stars"}).document
    assert renamed["metrics"] == evaluated().document["metrics"]
    with pytest.raises(RequestError, match="'body' is not a column of task text-classification"):
        evaluated(path, columns={"body": "review"})


def test_a_label_that_the_model_does_not_know_is_a_bad_row(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "strange.csv"
    path.write_text((trained / "rows.csv").read_text() + "why is the lamp off,weather\n")
    with pytest.raises(DataError, match=r"label 'weather' is written; the model knows entry, light, money") as error:
        evaluated(path)
    assert "strange.csv" in error.value.where
    document = evaluated(path, bad_rows="skip").document
    assert document["data"]["rows"] == 45
    assert document["data"]["skipped"]["count"] == 1
    assert "weather" in document["data"]["skipped"]["rows"][0]


def test_two_versions_are_compared_on_the_same_rows(evaluated: Any, trained: Path) -> None:
    document = evaluated(reference="tiny@v2", against="tiny@v1", resamples=40).document
    other = document["against"]
    alone = evaluated(reference="tiny@v1").document
    assert other["metrics"] == alone["metrics"]
    for name, apart in other["difference"].items():
        assert apart == pytest.approx(document["metrics"][name] - alone["metrics"][name])
        assert other["intervals"][name]["low"] <= apart <= other["intervals"][name]["high"]


def test_a_version_does_not_differ_from_itself(evaluated: Any) -> None:
    other = evaluated(against="tiny", resamples=40).document["against"]
    assert set(other["difference"].values()) == {0.0}
    assert all(bounds == {"low": 0.0, "high": 0.0} for bounds in other["intervals"].values())


def test_what_is_not_there_is_reported(evaluated: Any, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tiny"):
        evaluated(reference="tinny")
    with pytest.raises(DataError, match="no such file"):
        evaluated(tmp_path / "nowhere.csv")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RequestError, match="is a file; write the name of a folder"):
        evaluated()


def test_the_command_writes_both_files(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    written = [str(part) for part in ("evaluate", "tiny", trained / "rows.csv", "--output", out, "--resamples", 0)]
    assert main([*written, "--store", str(trained / "store"), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["metrics"] == json.loads((out / "evaluation.json").read_text())["metrics"]
    assert document["html"] == str(out / "evaluation.html") and (out / "evaluation.html").stat().st_size > 5000
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.html", "evaluation.json"]


def test_a_version_and_rows_in_s3_give_the_same_figures(
    trained: Path, evaluated: Any, tmp_path: Path, moto_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_server(monkeypatch, moto_endpoint)
    store = open_store("s3://tests/evaluated")
    for path in (trained / "store" / "models").rglob("*"):
        if path.is_file():
            store.put(path.relative_to(trained / "store").as_posix(), path)
    store.put("rows/rows.csv", trained / "rows.csv")
    options = EvaluationOptions(output=tmp_path / "s3", resamples=0)
    there = evaluate(store, "tiny", "s3://tests/evaluated/rows/rows.csv", options=options).document
    here = evaluated(resamples=0).document
    assert there["metrics"] == here["metrics"] and there["id"] == here["id"]
    assert there["data"]["fingerprint"] == here["data"]["fingerprint"]


def test_python_evaluates_as_the_command_does(trained: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    found = regraft.evaluate(
        "tiny@v1",
        trained / "rows.csv",
        tmp_path / "out",
        store=str(trained / "store"),
        format={"type": "csv"},
        resamples=0,
        progress=lambda event: seen.append(event.event),
    )
    assert found.html.is_file() and found.document["version"] == "v1" and seen == ["rows"] * len(seen) != []


def test_each_row_is_fetched_once(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching a row downloads its images from S3: ordering the rows must not fetch them."""
    seen: list[int] = []
    fetch = Rows.row

    def counted(self: Rows, index: int) -> dict[str, Any]:
        seen.append(index)
        return fetch(self, index)

    monkeypatch.setattr(Rows, "row", counted)
    evaluated(worst=0)
    assert sorted(seen) == list(range(45))


def test_a_row_that_shows_itself_unusable_only_when_it_is_used_is_left_out_or_reported(
    evaluated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated image has a valid header: it fails only when its pixels are decoded."""
    encode = TextClassification.encode

    def broken(self: TextClassification, row: Row, context: Context, *, train: bool) -> Example:
        if row["row"] == 7:
            raise DataError("image a.jpg is not readable: it is cut short")
        return encode(self, row, context, train=train)

    monkeypatch.setattr(TextClassification, "encode", broken)
    with pytest.raises(DataError, match="cut short"):
        evaluated()
    document = evaluated(bad_rows="skip", against="tiny@v1", resamples=30, worst=5).document
    assert document["data"]["rows"] == 44 and document["data"]["skipped"]["count"] == 1
    assert "cut short" in document["data"]["skipped"]["rows"][0]
    assert 7 not in [item["row"] for item in document["worst"]]
