"""Findings of one label per row: tables by label, confusions, calibration and operating points, counted by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from regraft.contracts import Context, Record
from regraft.contracts.findings import Findings, Table
from regraft.tasks.image_classification import ImageClassification
from regraft.tasks.metrics.classification import calibration, operating_points
from regraft.tasks.text_classification import TextClassification

TASK = TextClassification()
TWO = Context(None, ("healthy", "ill"))


class Output:
    def __init__(self, probabilities: Any) -> None:
        self.logits = torch.log(torch.as_tensor(np.array(probabilities), dtype=torch.float32))


def recorded(probabilities: Any, truth: list[int], context: Context) -> list[Record]:
    return TASK.records(Output(probabilities), {"labels": torch.tensor(truth)}, context)


def ill(chances: list[float], truth: list[int]) -> Findings:
    return TASK.findings(recorded([[1 - chance, chance] for chance in chances], truth, TWO), TWO)


def titled(found: Findings, title: str) -> Table:
    return next(table for table in found.tables if table.title == title)


def columns(table: Table, key: str) -> dict[Any, dict[str, Any]]:
    at = table.columns.index(key)
    return {row[at]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_records_hold_every_probability_and_how_far_off_the_row_is() -> None:
    context = Context(None, ("a", "b", "c"))
    (record,) = recorded([[0.2, 0.5, 0.3]], [2], context)
    assert record["probabilities"].dtype == np.float32
    assert record["probabilities"].tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert record["error"] == pytest.approx(0.7) and record["correct"] == 0
    assert (record["predicted"], record["label"]) == ("b", "c") and record["score"] == pytest.approx(0.5)


def test_each_label_has_its_scores_and_its_own_auc() -> None:
    context = Context(None, ("a", "b", "c"))
    said = [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]]
    found = TASK.findings(recorded(said, [0, 0, 1, 1], context), context)
    rows = columns(titled(found, "Labels"), "label")
    assert [rows["a"][name] for name in ("rows", "precision", "recall")] == [2, 1, 0.5]
    assert rows["b"]["precision"] == pytest.approx(2 / 3) and rows["a"]["AUC"] == 1
    assert rows["c"]["rows"] == 0
    assert {rows["c"][name] for name in ("AUC", "precision", "recall", "F1")} == {None}
    assert titled(found, "Labels").note.endswith("c has no rows here, and so no recall and no F1.")
    (matrix,) = found.matrices
    assert matrix.counts == ((1, 1, 0), (0, 2, 0), (0, 0, 0)) and matrix.truths == context.labels
    assert [curve.title for curve in found.curves] == ["Reliability of the predicted label"]


def test_too_many_labels_for_a_matrix_are_shown_by_their_confusions() -> None:
    context = Context(None, tuple(f"l{number:02d}" for number in range(60)))
    said = np.full((3, 60), 0.001)
    said[[0, 1, 2], [5, 5, 7]] = 0.941
    found = TASK.findings(recorded(said, [4, 4, 7], context), context)
    assert not found.matrices
    assert titled(found, "Most frequent confusions").rows == (("l04", "l05", 2),)


def test_sensitivity_is_reported_at_each_specificity() -> None:
    healthy = [0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.60, 0.90]
    sick = [0.20, 0.45, 0.65, 0.95]
    table = titled(ill(healthy + sick, [0] * 10 + [1] * 4), "Operating points")
    rows = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert len(rows) == 6
    at = rows["ill", 0.8]
    assert (at["sensitivity"], at["specificity"]) == (0.75, 0.8) and at["threshold"] == pytest.approx(0.45)
    at = rows["ill", 0.9]
    assert (at["sensitivity"], at["specificity"]) == (0.5, 0.9) and at["threshold"] == pytest.approx(0.65)
    at = rows["ill", 0.95]
    assert (at["sensitivity"], at["specificity"]) == (0.25, 1.0)
    # Of four ill ones none may be called healthy then: three healthy ones are below the least of their chances.
    assert (rows["healthy", 0.8]["sensitivity"], rows["healthy", 0.8]["specificity"]) == (0.3, 1.0)


def test_where_nothing_is_specific_enough_nothing_is_found() -> None:
    scores = np.array([0.9, 0.1])
    table = operating_points(["ill"], [np.array([False, True])], [scores])
    assert [row[2:] for row in table.rows] == [(0.0, 1.0, None)] * 3


def test_two_labels_have_curves_that_end_where_they_must() -> None:
    found = ill([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    curves = {curve.title.split(" (")[0]: curve for curve in found.curves}
    roc = curves["ROC curve of ill"]
    assert roc.points[0] == (0, 0) and roc.points[-1] == (1, 1) and "AUC 0.7500" in roc.title
    assert list(roc.points) == sorted(roc.points)
    precision = curves["Precision and recall of ill"]
    assert precision.points[-1][0] == 1 and list(x for x, _ in precision.points) == sorted(
        x for x, _ in precision.points
    )


def test_curves_of_many_rows_stay_small() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 5000)
    chances = np.clip(draw.normal(0.4 + 0.2 * truth, 0.2), 0.01, 0.99)
    assert max(len(curve.points) for curve in ill(chances.tolist(), truth.tolist()).curves) <= 200


def test_rows_of_one_label_only_have_findings_without_ranking() -> None:
    found = ill([0.4, 0.6], [1, 1])
    assert [table.title for table in found.tables] == ["Labels", "Calibration"]
    assert [curve.title for curve in found.curves] == ["Reliability of the predicted label"]


def test_calibration_counts_the_rows_behind_each_point() -> None:
    said = np.array([0.05, 0.1, 0.15, 0.95, 1.0, 0.0])
    right = np.array([False, True, False, True, True, False])
    curve, error = calibration(said, right, "x")
    # scikit-learn counts 0.1, an edge, to the lower bin: (0, 0.05, 0.1), (0.15), (0.95, 1.0).
    assert curve.weights == (3, 1, 2)
    assert [x for x, _ in curve.points] == pytest.approx([0.05, 0.15, 0.975])
    assert [y for _, y in curve.points] == pytest.approx([1 / 3, 0, 1])
    assert error == pytest.approx((3 * (1 / 3 - 0.05) + 0.15 + 2 * 0.025) / 6)


def test_a_model_that_believes_itself_too_much_is_seen() -> None:
    sure = titled(ill([0.99] * 10, [1, 0] * 5), "Calibration")
    told = dict(zip(sure.columns, sure.rows[0], strict=True))
    assert told["expected calibration error"] == pytest.approx(0.49, abs=1e-6)
    assert told["mean probability"] == pytest.approx(0.99) and told["accuracy"] == 0.5
    assert told["Brier score"] == pytest.approx(0.99**2 + 0.01**2, abs=1e-5)
    assert told["log loss"] == pytest.approx(-(np.log(0.99) + np.log(0.01)) / 2, rel=1e-5)


def test_findings_warn_of_nothing_and_hold_plain_numbers() -> None:
    context = Context(None, tuple("abcdefghij"))
    draw = np.random.default_rng(1)
    said = draw.dirichlet(np.ones(10), 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ImageClassification().findings(recorded(said, draw.integers(0, 9, 200).tolist(), context), context)
    for table in found.tables:
        assert {type(cell) for row in table.rows for cell in row} <= {str, int, float, type(None)}
    for curve in found.curves:
        assert {type(number) for point in curve.points for number in point} <= {float}
    assert {type(count) for row in found.matrices[0].counts for count in row} == {int}
