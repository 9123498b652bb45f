"""Findings of entities: scores by type, confusions, and the cost of wrong ends."""

from __future__ import annotations

import pytest

from regraft.contracts.findings import Findings, Table
from regraft.tasks.metrics.entities import findings

LABELS = ("O", "B-lamp", "B-place", "I-lamp", "I-place")
PAIRS = [
    (["O", "B-lamp", "I-lamp", "O"], ["O", "B-lamp", "I-lamp", "O"]),  # right
    (["B-lamp", "I-lamp", "O", "O"], ["B-lamp", "O", "O", "O"]),  # an end is wrong
    (["B-place", "O", "O", "O"], ["B-lamp", "O", "O", "O"]),  # the type is wrong
    (["B-place", "O", "O", "O"], ["O", "O", "B-place", "O"]),  # one missed, one made up
]


def row(table: Table, name: str) -> dict[str, object]:
    return next(dict(zip(table.columns, cells, strict=True)) for cells in table.rows if cells[0] == name)


@pytest.fixture
def found() -> Findings:
    return findings(PAIRS, LABELS)


def test_each_type_has_its_own_precision_recall_and_support(found: Findings) -> None:
    lamp, place = (row(found.tables[0], name) for name in ("lamp", "place"))
    assert (lamp["precision"], lamp["recall"], lamp["support"], lamp["predicted"]) == (1 / 3, 1 / 2, 2, 3)
    assert (place["precision"], place["recall"], place["support"], place["predicted"]) == (0.0, 0.0, 2, 1)


def test_a_type_that_does_not_occur_has_no_figures() -> None:
    empty = row(findings([(["O"], ["O"])], LABELS).tables[0], "lamp")
    assert (empty["precision"], empty["recall"], empty["f1"], empty["support"]) == (None, None, None, 0)


def test_entities_are_counted_for_what_they_were_taken_for(found: Findings) -> None:
    (matrix,) = found.matrices
    assert matrix.truths == matrix.answers == ("lamp", "place", "no entity")
    assert matrix.counts == ((2, 0, 0), (1, 0, 1), (0, 1, 0))


def test_wrong_ends_are_distinguished_from_wrong_types(found: Findings) -> None:
    f1 = {str(cells[0]): cells[-1] for cells in found.tables[1].rows}
    assert f1["type and both ends"] == pytest.approx(1 / 4)
    assert f1["both ends, any type"] == pytest.approx(2 / 4)
    assert f1["the type, with any overlap"] == pytest.approx(2 / 4)
