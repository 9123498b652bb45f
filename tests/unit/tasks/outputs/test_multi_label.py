"""Several labels per row: the loss does not depend on the split, no label is a target too, answers obey the
threshold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regraft.contracts import Context, Record
from regraft.errors import DataError
from regraft.tasks.image_multi_label import ImageMultiLabel
from regraft.tasks.outputs.multi_label import MultiLabel
from regraft.tasks.text_multi_label import TextMultiLabel

LABELS = ("cold", "plant", "warm")
CONTEXT = Context(None, LABELS)
TASK = TextMultiLabel()


def output(logits: Any) -> Any:
    return SimpleNamespace(logits=torch.as_tensor(logits, dtype=torch.float32))


def recorded(probabilities: list[list[float]], true: list[list[int]], task: MultiLabel = TASK) -> list[Record]:
    batch = {"labels": torch.tensor(true, dtype=torch.float32)}
    return task.records(output(torch.logit(torch.tensor(probabilities))), batch, CONTEXT)


@pytest.mark.parametrize("weights", [None, [0.5, 9.0, 2.0]])
def test_the_loss_is_torchs_mean_however_rows_are_split(weights: list[float] | None) -> None:
    weight = None if weights is None else torch.tensor(weights)
    context = Context(None, LABELS, class_weights=weight)
    logits, labels = torch.randn(20, 3) * 3, (torch.rand(20, 3) > 0.6).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    for cuts in ([20], [1, 19], [5, 0, 15]):
        parts = [
            TASK.loss(output(some), {"labels": true}, context)
            for some, true in zip(torch.split(logits, cuts), torch.split(labels, cuts), strict=True)
        ]
        mean = sum(part[0] for part in parts) / sum(part[1] for part in parts)
        assert mean == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "truth"), [(["warm", "cold"], [1, 0, 1]), ([], [0, 0, 0]), (["plant"], [0, 1, 0]), (None, None)]
)
def test_a_row_has_any_number_of_labels_or_does_not_tell(labels: Any, truth: Any) -> None:
    assert TASK.target({"labels": labels}, CONTEXT) == truth


def test_a_row_without_a_truth_makes_a_batch_without_labels() -> None:
    examples = [TASK.with_target({"input_ids": [1]}, {"labels": labels}, CONTEXT) for labels in (["warm"], None)]
    assert "labels" not in TASK.with_targets({}, examples)
    assert TASK.with_targets({}, examples[:1])["labels"].tolist() == [[0, 0, 1]]


def test_a_label_twice_is_a_bad_row_and_none_is_not() -> None:
    assert "labels holds 'warm' twice" in str(TASK.check({"text": "lamp", "labels": ["warm", "cold", "warm"]}))
    assert TASK.check({"text": "lamp", "labels": []}) is None
    assert TASK.check({"text": "lamp"}) is None
    assert "empty" in str(TASK.check({"text": " ", "labels": []}))


def test_a_label_the_model_does_not_know_is_named() -> None:
    with pytest.raises(DataError, match="row 7: label 'dark' is written; the model knows: cold, plant, warm"):
        TASK.target({"row": 7, "labels": ["warm", "dark"]}, CONTEXT)


def test_balanced_counts_what_is_present_as_often_as_what_is_not() -> None:
    assert TASK.balance({"cold": 10, "warm": 50}, 100, LABELS) == [9.0, 1.0, 1.0]


def test_metrics_are_those_of_counts_by_hand() -> None:
    records = recorded(
        [[0.9, 0.2, 0.1], [0.8, 0.1, 0.7], [0.3, 0.2, 0.6], [0.1, 0.2, 0.2]],
        [[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]],
    )
    metrics = TASK.metrics(records, CONTEXT)
    assert metrics["f1_micro"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert metrics["f1_macro"] == pytest.approx((0.8 + 2 / 3) / 2)  # nobody has or is said to have `plant`
    assert metrics["exact_match"] == 0.5
    assert [record["correct"] for record in records] == [1, 0, 1, 0]
    # cold: right at ranks 1, 2 and 4 of 4; warm: right at rank 2.
    assert metrics["map"] == pytest.approx(((1 + 1 + 3 / 4) / 3 + 1 / 2) / 2)
    assert metrics["loss"] == pytest.approx(np.mean([record["error"] for record in records]))


def test_the_threshold_moves_what_is_said_and_not_the_ranking() -> None:
    said, true = [[0.9, 0.3, 0.1], [0.2, 0.35, 0.1]], [[1, 1, 0], [0, 1, 0]]
    low, high = (task.metrics(recorded(said, true, task), CONTEXT) for task in (TextMultiLabel(threshold=0.3), TASK))
    assert low["exact_match"] == 1 and high["exact_match"] == 0
    assert low["map"] == high["map"]


def test_rows_without_any_label_have_metrics() -> None:
    metrics = TASK.metrics(recorded([[0.1, 0.2, 0.3]] * 2, [[0, 0, 0]] * 2), CONTEXT)
    assert metrics["exact_match"] == 1 and metrics["map"] == metrics["f1_micro"] == metrics["f1_macro"] == 0
    assert all(np.isfinite(list(metrics.values())))
    TASK.findings(recorded([[0.1, 0.2, 0.3]] * 2, [[0, 0, 0]] * 2), CONTEXT)


def test_answers_name_the_labels_from_the_threshold_on() -> None:
    logits = torch.logit(torch.tensor([[0.6, 0.1, 0.9], [0.1, 0.2, 0.3]]))
    first, second = ImageMultiLabel().answers(output(logits), {}, CONTEXT)
    assert first["labels"] == ["warm", "cold"] and second["labels"] == []
    assert [entry["label"] for entry in first["scores"]] == ["warm", "cold", "plant"]
    assert [entry["score"] for entry in second["scores"]] == pytest.approx([0.3, 0.2, 0.1])


def test_the_table_counts_each_label() -> None:
    records = recorded([[0.9, 0.2, 0.1], [0.8, 0.1, 0.7], [0.3, 0.2, 0.6]], [[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    found = TASK.findings(records, CONTEXT)
    (table,) = found.tables
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert [rows["cold"][name] for name in ("rows", "found", "false", "missed")] == [1, 1, 1, 0]
    assert rows["warm"]["F1"] == 1 and rows["warm"]["AUC"] == 1
    assert rows["plant"]["rows"] == 0 and rows["plant"]["AUC"] is None
    reliability, *curves = found.curves
    assert sum(reliability.weights) == 9
    assert [curve.title.split(" (")[0] for curve in curves] == [
        "Precision and recall of warm",
        "Precision and recall of cold",
    ]


def test_of_a_single_label_its_absence_is_no_class() -> None:
    context = Context(None, ("cold",))
    logits = torch.logit(torch.tensor([[0.9], [0.1], [0.6], [0.2]]))
    records = TASK.records(output(logits), {"labels": torch.tensor([[1.0], [0], [0], [0]])}, context)
    metrics = TASK.metrics(records, context)
    assert metrics["f1_micro"] == metrics["f1_macro"] == pytest.approx(2 / 3)
    assert metrics["exact_match"] == 0.75
    (row,) = TASK.findings(records, context).tables[0].rows
    assert row[:8] == ("cold", 1, 1, 1, 0, 0.5, 1.0, pytest.approx(2 / 3))


def test_macro_f1_is_that_of_the_one_label_that_occurs() -> None:
    records = recorded([[0.9, 0.1, 0.1], [0.6, 0.1, 0.1], [0.1, 0.1, 0.1]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert TASK.metrics(records, CONTEXT)["f1_macro"] == pytest.approx(2 / 3)


def test_a_label_that_every_row_has_is_still_learned() -> None:
    assert TASK.balance({"cold": 10, "plant": 2}, 10, LABELS) == [1.0, 4.0, 1.0]
