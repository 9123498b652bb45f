"""Anomaly detection by every method that fits it: learned from good rows, asked alone and in batches, evaluated."""

from __future__ import annotations

import ast
import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import regraft
from regraft.errors import DataError, RequestError, SpecError, Unsupported
from regraft.methods.padim import without_row
from regraft.serving.export import export
from regraft.spec.closed_form import fitting_methods
from regraft.tasks.anomaly_detection import AnomalyDetection
from support.image_bases import tiny_resnet
from support.plates import folder_of_plates, plate, table_of_plates
from unit.every.test_exported_readme import code_of, run

METHODS = fitting_methods(AnomalyDetection())


def document(folder: Path, method: Any = "patchcore", **more: Any) -> dict[str, Any]:
    base = folder / "base"
    if not base.exists():
        tiny_resnet(base)
    return {
        "name": "plates",
        "base": str(base),
        "task": {"type": "anomaly-detection", "size": [48, 48]},
        "method": method,
        "data": {"train": str(folder / "train"), "eval": str(folder / "eval.csv")},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(folder / "store"),
        **more,
    }


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plates")
    folder_of_plates(folder / "train", good=40)
    table_of_plates(folder / "eval.csv", good=20, scratched=12, first=100)
    return folder


@pytest.fixture(scope="module")
def trained(plates: Path) -> Callable[[str], tuple[Any, Any]]:
    """Return the outcome of a method's training, and its model; each is trained once."""
    known: dict[str, tuple[Any, Any]] = {}

    def of(method: str) -> tuple[Any, Any]:
        if method not in known:
            outcome = regraft.train(document(plates, {"type": method, "bank_mb": 0.05}, name=f"plates-{method}"))
            known[method] = outcome, regraft.load(outcome.model, store=str(plates / "store"))
        return known[method]

    return of


every_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name == "anomaly-dino" else ()) for name in METHODS]
)
"""The directions of patches are compared by the code of another method: slow for that alone."""


@every_method
def test_scratched_plates_are_found_and_good_ones_are_not(trained: Any, method: str) -> None:
    outcome, model = trained(method)
    assert outcome.metrics["auroc"] > 0.95 and outcome.metrics["pixel_auroc"] > 0.8
    assert outcome.metrics["false_alarms"] <= 0.2 and outcome.metrics["missed"] <= 0.3
    assert outcome.delta_bytes <= 0.05e6 + 4 * 1000 + 3000
    scratched, mask = plate(777, scratched=True)
    good, odd = model.predict([plate(778)[0], scratched])
    assert set(odd) == {"score", "p_value", "is_anomaly", "threshold", "heat_map"}
    assert odd["is_anomaly"] and odd["p_value"] <= 0.05 and odd["score"] > good["score"]
    assert odd["is_anomaly"] == (odd["score"] > odd["threshold"])
    json.dumps(odd)
    heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(odd["heat_map"]))))
    marked = np.asarray(mask) > 0
    assert heat.shape == marked.shape and heat.dtype == np.uint8
    assert heat[marked].mean() > heat[~marked].mean() + 3


@every_method
def test_a_score_is_the_same_alone_and_among_32_others(trained: Any, method: str) -> None:
    _, model = trained(method)
    pictures = [plate(number, scratched=number % 3 == 0)[0] for number in range(300, 332)]
    together = model.predict(pictures)
    for picture, answer in list(zip(pictures, together, strict=True))[::8]:
        (alone,) = model.predict([picture])
        assert alone["score"] == pytest.approx(answer["score"], rel=1e-5)
        assert alone["p_value"] == pytest.approx(answer["p_value"], abs=0.03)


@every_method
def test_an_evaluation_shows_kinds_of_defects_and_heat(trained: Any, plates: Path, method: str) -> None:
    trained(method)
    out = plates / f"evaluation-{method}"
    regraft.evaluate(
        f"plates-{method}", plates / "eval.csv", out, store=str(plates / "store"), resamples=100, device="cpu"
    )
    text = (out / "evaluation.html").read_text()
    assert "scratch" in text and "False alarms" in text and "found unusual" in text
    found = json.loads((out / "evaluation.json").read_text())
    assert found["metrics"].keys() >= {"auroc", "pixel_auroc", "f1", "false_alarms", "missed"}


@every_method
def test_the_exported_code_gives_the_score_and_the_p_value(
    trained: Any, plates: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = trained(method)
    exported = export(str(plates / "store"), f"plates-{method}", tmp_path / "out")
    plate(779, scratched=True)[0].save(tmp_path / "picture.png")
    code = code_of(exported.folder)
    given = 'Image.new("RGB", (640, 480))'
    assert given in code
    printed = run(code.replace(given, f"Image.open({str(tmp_path / 'picture.png')!r})"), exported.folder, monkeypatch)
    (answer,) = model.predict([str(tmp_path / "picture.png")])
    assert ast.literal_eval(printed) == pytest.approx(
        {"score": answer["score"], "p_value": answer["p_value"]}, rel=1e-3
    )


def test_a_flat_folder_is_good_and_a_share_of_it_is_evaluated(plates: Path, tmp_path: Path) -> None:
    written = document(plates, {"type": "patchcore", "bank_mb": 0.02}, name="flat", store=str(tmp_path / "store"))
    outcome = regraft.train({**written, "data": {"train": str(plates / "train" / "good"), "eval": 0.3}})
    assert outcome.metrics["auroc"] == 0.5, "nothing was there to rank"
    assert outcome.metrics["pixel_auroc"] == 0.5


def test_defects_among_training_rows_are_not_learned_from(plates: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    folder_of_plates(tmp_path / "mixed", good=20, scratched=5, first=100)
    written = document(plates, {"type": "patchcore", "bank_mb": 0.02}, name="mixed", store=str(tmp_path / "store"))
    written["data"] = {"train": str(tmp_path / "mixed"), "eval": str(plates / "eval.csv")}
    regraft.train(written, progress=lambda event: notes.append(getattr(event, "message", "")))
    assert any("learned from 20 good rows (5 rows of defects are left out)" in note for note in notes)


def test_a_good_row_with_a_marked_defect_is_refused_by_file_and_row(plates: Path, tmp_path: Path) -> None:
    path = table_of_plates(tmp_path / "bad.csv", good=3, scratched=2)
    path.write_text(path.read_text().replace("scratch", "Good"))
    with pytest.raises(DataError, match=r"bad\.csv:5: .*is labelled 'Good', and its mask .* marks 70 pixels"):
        regraft.train({**document(plates), "data": {"train": str(path), "eval": 0.3}, "store": str(tmp_path / "s")})


def test_rows_of_which_none_is_good_are_refused_before_training(plates: Path, tmp_path: Path) -> None:
    written = document(plates, store=str(tmp_path / "store"))
    written["task"] = {"type": "anomaly-detection", "good": ["Free"]}
    with pytest.raises(DataError, match=r"labels are 'good', and task\.good lists Free"):
        regraft.train(written)


@pytest.mark.parametrize("change", [{"method": "full"}, {"task": "image-classification"}])
def test_methods_and_tasks_that_do_not_go_together_are_refused(plates: Path, change: dict[str, Any]) -> None:
    message = "write .*patchcore" if "method" in change else "patchcore describes the parts of usual inputs"
    with pytest.raises(SpecError, match=message):
        regraft.train({**document(plates), **change})


@every_method
def test_a_false_alarm_that_is_taught_is_usual_in_a_new_version(
    trained: Any, plates: Path, method: str, tmp_path: Path
) -> None:
    outcome, model = trained(method)
    plate(901, scratched=True)[0].save(tmp_path / "alarm.png")
    alarm = str(tmp_path / "alarm.png")
    assert model.predict([alarm])[0]["is_anomaly"]
    taught = regraft.teach(outcome.model, "good", alarm, store=str(plates / "store"), max_loss=100)
    assert taught.facts["rows"] == 1 and taught.facts["changed"] > 0
    after = regraft.load(f"{outcome.model}@{taught.version}", store=str(plates / "store"))
    (answer,) = after.predict([alarm])
    assert not answer["is_anomaly"] and answer["p_value"] > 0.05
    assert {one["label"] for one in taught.facts["effect"]} == {"good", "scratch"}
    assert after.predict([plate(778)[0]])[0]["score"] <= model.predict([plate(778)[0]])[0]["score"] * 1.001
    with pytest.raises(RequestError, match="takes this row for usual already"):
        regraft.teach(f"{outcome.model}@{taught.version}", "good", alarm, store=str(plates / "store"))
    with pytest.raises(Unsupported, match="--class good teaches it that rows are"):
        regraft.teach(outcome.model, "scratch", alarm, store=str(plates / "store"))


def test_scores_without_a_row_are_those_of_a_fit_without_it() -> None:
    vectors = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def distance(rows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        return ((asked - rows.mean(0)) @ torch.linalg.inv(torch.cov(rows.T)) @ (asked - rows.mean(0))).sqrt()

    for number in range(12):
        others = torch.cat([vectors[:number], vectors[number + 1 :]])
        found = without_row(distance(vectors, vectors[number])[None], 12)
        assert float(found) == pytest.approx(float(distance(others, vectors[number])), rel=1e-5)


@pytest.mark.slow
def test_a_search_tries_methods_and_shares_of_patches(plates: Path, tmp_path: Path) -> None:
    space = {"method.top_share": {"choice": [0.0, 0.05]}}
    method = {"type": "patchcore", "bank_mb": 0.02}
    written = document(plates, method, name="searched", store=str(tmp_path / "store"))
    outcome = regraft.search({**written, "search": {"space": space, "trials": 2}})
    assert outcome.winner is not None
    model = regraft.load("searched", store=str(tmp_path / "store"))
    assert model.predict([plate(777, scratched=True)[0]])[0]["is_anomaly"]
