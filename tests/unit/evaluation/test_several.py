"""Several models on the same rows: equal to each by itself, read once, paired; what cannot be compared is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.errors import RequestError, Unsupported
from regraft.evaluation.options import EvaluationOptions
from regraft.evaluation.several import evaluate_several
from regraft.evaluation.shared_pass import ALONE, FEATURES, INPUTS
from regraft.store.objects import open_store
from regraft.tasks.text_classification import TextClassification
from support.browser import Look
from support.tiny import document


def several(folder: Path, output: Path, *references: str, **options: Any) -> Any:
    """Evaluate models of a store on its `rows.csv`."""
    chosen = EvaluationOptions(output=output, **{"resamples": 200, **options})
    return evaluate_several(open_store(str(folder / "store")), references, str(folder / "rows.csv"), options=chosen)


@pytest.fixture(scope="module")
def store(trained: Path) -> Path:
    """The store of `trained`, with two heads on its frozen base and a model of fewer labels."""
    for seed in (1, 2):
        head = document(trained, method="feature-extraction", epochs=2, seed=seed)
        regraft.train({**head, "name": f"head{seed}"})
    with (trained / "train.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != "money"]
    with (trained / "fewer.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, ["text", "label"])
        out.writeheader()
        out.writerows(rows)
    fewer = document(trained, method="prototypes")
    regraft.train({**fewer, "name": "fewer", "data": {"train": str(trained / "fewer.csv"), "eval": 0.3}})
    return trained


def test_each_model_has_the_metrics_that_it_has_by_itself(store: Path, tmp_path: Path, evaluated: Any) -> None:
    names = ["head1@v1", "tiny@v1", "tiny@v2", "head2@v1"]
    found = several(store, tmp_path / "several", *names).document
    assert [f"{one['model']}@{one['version']}" for one in found["models"]] == names
    for name, one in zip(names, found["models"], strict=True):
        alone = evaluated(store / "rows.csv", name).document
        assert one["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
    assert json.loads((tmp_path / "several" / "evaluation.json").read_text()) == found


def test_models_of_one_base_read_each_row_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, encode = list[int](), TextClassification.encode

    def counted(task: Any, row: Any, context: Any, *, train: bool) -> Any:
        read.append(row["row"])
        return encode(task, row, context, train=train)

    monkeypatch.setattr(TextClassification, "encode", counted)
    found = several(store, tmp_path, "head1", "head2").document
    assert sorted(read) == list(range(45))
    assert [one["shares"] for one in found["models"]] == [FEATURES, FEATURES]
    mixed = several(store, tmp_path, "head1", "tiny").document
    assert [one["shares"] for one in mixed["models"]] == [INPUTS, INPUTS]
    assert {ALONE} == {one["shares"] for one in several(store, tmp_path, "head1", resamples=0).document["models"]}


def test_differences_are_of_the_first_from_each_other_on_the_same_rows(store: Path, tmp_path: Path) -> None:
    found = several(store, tmp_path, "tiny@v2", "tiny@v1", "head1").document
    first, *others = (one["metrics"]["accuracy"] for one in found["models"])
    for one, other in zip(found["differences"], others, strict=True):
        assert one["difference"] == pytest.approx(first - other)
        assert one["low"] <= one["difference"] <= one["high"]
        assert one["first_is"] in ("better", "worse", "not distinguishable")
    page = (tmp_path / "evaluation.html").read_text()
    assert "tiny@v2 minus each other model" in page and "<script" not in page


@pytest.mark.parametrize(
    ("names", "error", "why"),
    [
        (("tiny", "fewer"), Unsupported, "'money' is known to tiny@v2 alone"),
        (("fewer", "tiny"), Unsupported, "'money' is known to tiny@v2 alone"),
        (("tiny", "tiny@v2"), RequestError, "tiny@v2 is named twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    store: Path, tmp_path: Path, names: tuple[str, ...], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        several(store, tmp_path / "out", *names)
    assert not (tmp_path / "out").exists()


def test_the_python_face_takes_a_list(store: Path, tmp_path: Path) -> None:
    place = str(store / "store")
    found = regraft.evaluate(["head1", "head2"], store / "rows.csv", tmp_path, store=place, resamples=0)
    assert found.document["differences"][0]["low"] is None
    with pytest.raises(RequestError, match="no model is named"):
        regraft.evaluate([], store / "rows.csv", store=place)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (390, "dark")])
def test_a_browser_shows_all_of_it_and_asks_for_nothing(
    store: Path, browser: Look, tmp_path: Path, width: int, scheme: str
) -> None:
    html = several(store, tmp_path, "tiny@v2", "tiny@v1", "head1").html
    with browser(html, width=width, scheme=scheme) as seen:
        assert not seen.complaints and not seen.requests and seen.cut() == []
        assert seen.visible("section") == 4
        assert min(seen.contrasts(["h1", "td", ".note", ".lede", "nav a", "h2"]).values()) >= 4.5
