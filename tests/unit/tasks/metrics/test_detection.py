"""Detection metrics: boxes are counted one by one, and precision is reported by class and size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from regraft.contracts import Record
from regraft.contracts.findings import Findings
from regraft.tasks.metrics.detection import NOTHING, confusions, findings_of, overlaps, precision_of

LABELS = ("cat", "dog")


def record(true: list[tuple[int, list[float]]], found: list[tuple[int, float, list[float]]]) -> Record:
    """Return a record of true (label, box) and predicted (label, score, box)."""
    return {
        "true_boxes": np.array([box for _, box in true], np.float32).reshape(-1, 4),
        "true_labels": np.array([label for label, _ in true], np.int64),
        "boxes": np.array([box for *_, box in found], np.float32).reshape(-1, 4),
        "labels": np.array([label for label, *_ in found], np.int64),
        "scores": np.array([score for _, score, _ in found], np.float32),
    }


SMALL, LARGE = [0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 200.0, 200.0]
MIXED = [
    record([(0, SMALL), (1, LARGE)], [(0, 0.9, SMALL), (0, 0.8, LARGE), (1, 0.7, [300, 0, 9, 9]), (1, 0.2, LARGE)]),
    record([(0, SMALL)], []),
]


def table(findings: Findings, number: int) -> dict[Any, dict[str, Any]]:
    found = findings.tables[number]
    return {row[0]: dict(zip(found.columns[1:], row[1:], strict=True)) for row in found.rows}


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([SMALL, [5, 0, 10, 10], [10, 0, 5, 5], [0, 0, 0, 0]], np.float32)
    assert overlaps(boxes, boxes[:1])[:, 0] == pytest.approx([1, 1 / 3, 0, 0])
    assert overlaps(boxes[:0], boxes).shape == (0, 4)


def test_each_true_box_is_found_once_and_by_its_own_class_first() -> None:
    twice = record([(0, SMALL)], [(0, 0.8, SMALL), (0, 0.9, SMALL)])
    assert sorted(confusions(twice, 0.5, 2)) == [(0, 0), (2, 0)]
    stacked = record([(1, SMALL), (0, [0, 0, 10, 9])], [(0, 0.9, SMALL)])
    assert confusions(stacked, 0.5, 2) == [(0, 0), (1, 2)]
    assert confusions(record([], []), 0.5, 2) == []


def test_mistakes_are_counted_by_what_was_true_and_what_was_said() -> None:
    [matrix] = findings_of(MIXED, LABELS, 0.5).matrices
    assert matrix.truths == matrix.answers == (*LABELS, NOTHING)
    assert matrix.counts == ((1, 0, 1), (1, 0, 0), (0, 1, 0))


def test_precision_is_reported_by_class() -> None:
    found = table(findings_of(MIXED, LABELS, 0.5), 0)
    assert found["cat"]["AP50"] == pytest.approx(0.5, abs=0.01)
    assert found["dog"]["AP50"] == pytest.approx(0.5, abs=0.01)
    counts = {label: [row[name] for name in ("true boxes", "found", "missed", "false")] for label, row in found.items()}
    assert counts == {"cat": [2, 1, 1, 1], "dog": [1, 0, 1, 1]}


def test_precision_is_reported_by_size_and_absent_where_nothing_is_to_be_found() -> None:
    found = table(findings_of(MIXED, LABELS, 0.5), 1)
    assert {size: row["true boxes"] for size, row in found.items()} == {"small": 2, "medium": 0, "large": 1}
    assert found["medium"]["AP50"] is None
    assert found["large"]["AP50"] == pytest.approx(1)


def test_the_mean_over_classes_is_the_summary() -> None:
    precision = precision_of(MIXED, 2)
    assert precision.of() == pytest.approx(precision.summary[0])
    assert precision.of(threshold=0) == pytest.approx(precision.summary[1])
    by_class = [precision.of(label, threshold=0) for label in range(2)]
    assert np.mean(by_class) == pytest.approx(precision.summary[1])


def test_images_without_any_box_have_findings() -> None:
    findings = findings_of([record([], [])], LABELS, 0.5)
    assert table(findings, 0)["cat"]["AP50"] is None
    assert findings.matrices[0].counts == ((0, 0, 0),) * 3
