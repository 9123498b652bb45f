"""Regression: columns depend on the field, the model contains the scale, and an export has it in a plain layer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from regraft.bases.load import BaseLoader
from regraft.bases.locate import locate
from regraft.contracts import Context, Record
from regraft.errors import Unsupported
from regraft.serving.row_checks import check_rows, prediction_columns
from regraft.spec.run import RunSpec
from regraft.tasks.image_regression import ImageRegression
from regraft.tasks.outputs.regression import ScaledLinear
from regraft.tasks.text_regression import TextRegression
from support.image_bases import tiny_mobilenet
from support.tiny import document, tiny_bert

CONTEXT = Context(None, ())
TASK = TextRegression(targets=("share", "price"), mean=(0.5, 4200.0), deviation=(0.25, 900.0))


def output(numbers: Any) -> Any:
    return SimpleNamespace(logits=torch.as_tensor(numbers, dtype=torch.float32))


def recorded(predicted: Any, true: Any, task: TextRegression = TASK) -> list[Record]:
    return task.records(output(predicted), {"labels": torch.as_tensor(true, dtype=torch.float32)}, CONTEXT)


def test_the_columns_are_those_that_the_field_names() -> None:
    assert TASK.input_columns() == {"text": "text", "share": "number", "price": "number"}
    assert TASK.target_columns() == {"share", "price"} and prediction_columns(TASK) == {"text": "text"}
    assert check_rows(TASK, ["lamp", {"text": "lamp", "price": 3.0}]) == [
        {"text": "lamp", "row": 0},
        {"text": "lamp", "row": 1},
    ]
    assert TextRegression().input_columns() == {"text": "text", "target": "number"}
    assert ImageRegression(targets=("angle",)).input_columns() == {"image": "image", "angle": "number"}


def test_a_spec_writes_targets_and_renames_them(tmp_path: Path) -> None:
    written = document(tmp_path) | {"task": {"type": "text-regression", "targets": ["rating"]}}
    written["data"]["columns"] = {"rating": "stars"}
    spec = RunSpec.resolve(written)
    assert spec.model_dump(mode="json")["task"]["targets"] == ["rating"]
    assert RunSpec.resolve(spec.model_dump(mode="json")) == spec
    assert spec.override({"task.targets": ["rating", "price"]}).task.target_columns() == {"rating", "price"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ["text"]}, "'text' is written"),
        ({"targets": ["a", "a"]}, "'a' is written"),
        ({"targets": []}, "at least 1"),
        ({"targets": ["a"], "mean": [1.0, 2.0]}, "mean: 2 numbers for 1 targets"),
        ({"targets": ["a"], "deviation": [0.0]}, "greater than 0"),
    ],
)
def test_targets_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TextRegression.model_validate(fields)


def test_the_scale_is_taken_from_the_training_rows_unless_it_is_written() -> None:
    columns = {"share": np.array([0.0, 1.0]), "price": np.array([5.0, 5.0])}
    fitted = TextRegression(targets=("share", "price")).fit_to_rows(columns.__getitem__)
    assert fitted.mean == (0.5, 5.0) and fitted.deviation == (0.5, 1.0)
    assert TASK.fit_to_rows(columns.__getitem__) == TASK
    assert TextRegression.parse(fitted.model_dump(mode="json")) == fitted


def test_a_target_that_is_the_same_everywhere_has_the_deviation_1_whatever_rounding_says() -> None:
    column = np.full(1000, 0.1)
    assert column.std() > 0
    assert TextRegression().fit_to_rows(lambda _: column).deviation == (1.0,)


@pytest.mark.parametrize("level", ["light", "strong"])
def test_an_augmented_image_stays_where_its_numbers_say(level: Any, tmp_path: Path) -> None:
    pixels = np.full((36, 40, 3), 20, np.uint8)
    pixels[4:12, 6:14] = 230  # what a hand is to grasp, at (10, 8)
    Image.fromarray(pixels).save(tmp_path / "grasp.png")
    plain = SimpleNamespace(labels=(), augment=level, processor=_pixels)
    shifts = []
    for draw in range(30):
        row = {"image": str(tmp_path / "grasp.png"), "draw": draw, "target": 10.0}
        seen = ImageRegression().encode(row, plain, train=True)["pixel_values"]
        assert seen.shape == (3, 36, 40)
        shifts.append((seen[:, 4:12, 6:14].mean() - seen[:, 20:, 20:].mean()).item())
    assert np.median(shifts) > 100


def _pixels(images: Image.Image, **_: Any) -> dict[str, list[torch.Tensor]]:
    return {"pixel_values": [torch.from_numpy(np.array(images)).permute(2, 0, 1).float()]}


@pytest.mark.parametrize("distance", ["huber", "mse"])
def test_the_loss_is_torchs_on_standardised_targets_however_rows_are_split(distance: Any) -> None:
    task = TASK.model_copy(update={"distance": distance})
    scale = torch.tensor(TASK.deviation)
    predicted, true = torch.randn(20, 2) * scale * 2, torch.randn(20, 2) * scale
    measure = F.huber_loss if distance == "huber" else F.mse_loss
    expected = measure(predicted / scale, true / scale)
    for cuts in ([20], [1, 19], [5, 0, 15]):
        parts = [
            task.loss(output(some), {"labels": wanted}, CONTEXT)
            for some, wanted in zip(torch.split(predicted, cuts), torch.split(true, cuts), strict=True)
        ]
        assert sum(part[0] for part in parts) / sum(part[1] for part in parts) == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_the_head_answers_in_the_targets_units_before_and_after_it_is_merged(tmp_path: Path) -> None:
    loader = BaseLoader(locate(str(tiny_bert(tmp_path))))
    torch.manual_seed(0)
    model: Any = TASK.build(loader, ()).eval()
    batch = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        before = model(**batch).logits
        TASK.merge(model)
        after = model(**batch).logits
    assert before[0].tolist() == pytest.approx(TASK.mean, rel=0.5)
    torch.testing.assert_close(before, after.double(), rtol=1e-6, atol=1e-6)
    assert not any(isinstance(layer, ScaledLinear) for layer in model.modules())
    assert model.config.problem_type == "regression" and model.config.id2label == {0: "share", 1: "price"}


def test_an_images_head_is_scaled_too(tmp_path: Path) -> None:
    task = ImageRegression(targets=("angle",), mean=(90.0,), deviation=(30.0,))
    model = task.build(BaseLoader(locate(str(tiny_mobilenet(tmp_path)))), ())
    assert isinstance(model.classifier, ScaledLinear)


def test_only_what_is_trained_is_in_the_state(tmp_path: Path) -> None:
    model = TASK.build(BaseLoader(locate(str(tiny_bert(tmp_path)))), ())
    assert {name for name in model.state_dict() if name.startswith("classifier")} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_outputs_are_precise_where_the_forward_pass_is_not() -> None:
    layer = ScaledLinear(nn.Linear(4, 1), torch.tensor([4200.0]), torch.tensor([1.0]))
    states = torch.randn(8, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(states)
    with torch.no_grad():
        assert (found - layer(states)).abs().max() < 0.05  # bf16 knows 4192 and 4224, and nothing between


def test_a_head_without_a_bias_trains_and_says_that_it_cannot_be_exported(tmp_path: Path) -> None:
    small = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=59
    )
    LlamaModel(small).save_pretrained(tmp_path)
    model = TASK.build(BaseLoader(locate(str(tmp_path))), ())
    with pytest.raises(Unsupported, match=r"no bias.*task\.pooling: mean"):
        TASK.merge(model)
    centred = TASK.model_copy(update={"mean": (0.0, 0.0)})
    model = centred.build(BaseLoader(locate(str(tmp_path))), ())
    centred.merge(model)
    assert not isinstance(model.score, ScaledLinear)


def test_metrics_are_means_over_targets_and_each_ones_own() -> None:
    true = [[0.1, 4000], [0.2, 5000], [0.3, 3000], [0.4, 4500]]
    predicted = [[0.2, 4100], [0.3, 4900], [0.4, 3100], [0.5, 4400]]
    metrics = TASK.metrics(recorded(predicted, true), CONTEXT)
    assert metrics["spearman_share"] == metrics["spearman_price"] == metrics["spearman"] == pytest.approx(1)
    assert metrics["mae_share"] == pytest.approx(0.1) and metrics["mae_price"] == pytest.approx(100)
    assert metrics["mae"] == pytest.approx((0.1 + 100) / 2)
    assert metrics["rmse_price"] == pytest.approx(100)
    assert metrics["r2_share"] == pytest.approx(1 - 4 * 0.01 / 0.05)
    assert set(TextRegression().metrics(recorded([[1.0]], [[2.0]], TextRegression()), CONTEXT)) == {
        "spearman",
        "pearson",
        "r2",
        "mae",
        "rmse",
        "loss",
    }


def test_numbers_that_are_all_the_same_have_no_correlation_and_no_warning() -> None:
    for predicted, true in (([[1.0, 1.0]] * 3, [[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), ([[1.0, 2.0]], [[3.0, 4.0]])):
        metrics = TASK.metrics(recorded(predicted, true), CONTEXT)
        assert metrics["spearman"] == metrics["pearson"] == 0
        assert all(np.isfinite(list(metrics.values())))


def test_the_worst_row_is_the_one_furthest_off_in_standard_deviations() -> None:
    records = recorded([[0.5, 4200], [1.0, 4200], [0.5, 4300]], [[0.5, 4200]] * 3)
    assert [record["error"] for record in records] == pytest.approx([0, 1.0, 50 / 900], rel=1e-5)
    assert max(range(3), key=lambda row: records[row]["error"]) == 1


def test_answers_hold_each_target_by_its_name() -> None:
    (answer,) = TASK.answers(output([[0.25, 4100.0]]), {}, CONTEXT)
    assert answer["values"] == {"share": 0.25, "price": 4100.0}
    assert answer["scores"] == [{"label": "share", "score": 0.25}, {"label": "price", "score": 4100.0}]


def test_findings_show_residuals_and_a_scatter_of_each_target() -> None:
    true = np.stack([np.linspace(0, 1, 3000), np.linspace(3000, 5000, 3000)], 1)
    found = TASK.findings(recorded(true + np.array([0.1, 0]), true), CONTEXT)
    targets, residuals = found.tables
    assert [row[0] for row in targets.rows] == ["share", "price"]
    share = dict(zip(residuals.columns, residuals.rows[0], strict=True))
    assert share["mean"] == pytest.approx(0.1, abs=1e-6) and share["50%"] == pytest.approx(0.1, abs=1e-6)
    assert [curve.title.split(":")[0] for curve in found.curves] == ["share", "price"]
    points = found.curves[0].points
    assert len(points) <= 2000 and list(points) == sorted(points) and "3000 rows" in found.curves[0].note
    assert found.curves[0].ideal == ((0.0, 0.0), (1.0, 1.0))
