"""What every kind of column must be, the platform's own found by listing the folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from regraft.contracts import BadCell, Column, MadeUp, column_of
from regraft.contracts.views import ShownRow, Thumbnail, ViewPart
from regraft.data.rows import Rows, RowWriter
from regraft.evaluation.page import page
from regraft.evaluation.row_views import RowView
from regraft.evaluation.worst_rows import WorstRows
from unit.evaluation.sample_pages import document, findings

NAMES = Column.names()
WORDS = ("w5", "w6", "w7")


class Counting:
    """An allowance without a limit."""

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, count: int, described: str) -> None:
        assert described
        self.decoded += count


class Drawn:
    """A thumbnail for every image."""

    def add(self, image: Image.Image) -> Thumbnail:
        return Thumbnail("data:,", *image.size)


@pytest.fixture(params=NAMES)
def column(request: pytest.FixtureRequest) -> Column:
    return column_of(request.param)


def made(column: Column, number: int = 0, *, train: bool = True) -> Any:
    try:
        return column.made_up(MadeUp(number, WORDS, train=train))
    except BadCell:
        pytest.skip(f"no file holds {column.key()}")


def inputs(column: Column) -> Any:
    if column.target:
        pytest.skip("a target is no input of a request")
    return column


def test_the_folder_is_not_empty() -> None:
    assert len(NAMES) >= 12


def test_the_kind_has_docs_and_says_how_it_is_kept(column: Column) -> None:
    assert column.__doc__ and column.__doc__ != Column.__doc__
    assert column.arrow is not None


def test_a_baseline_without_a_base_reads_a_text_or_numbers_of_unit_length(column: Column) -> None:
    if not column.plain:
        return
    assert not column.target
    values = [column.plain_input(made(column, number)) for number in range(2)]
    if all(isinstance(value, str) for value in values):
        return
    assert len({len(value) for value in values}) == 1
    assert all(sum(float(number) ** 2 for number in value) == pytest.approx(1.0) for value in values)


def test_a_made_up_value_is_kept_and_comes_back_unchanged(column: Column, tmp_path: Path) -> None:
    values = [made(column, number) for number in range(3)]
    path = tmp_path / "rows.arrow"
    with RowWriter(path, {"value": column.key()}) as writer:
        for value in values:
            writer.add({"value": value}, 1)
    rows = Rows(path, {"value": column.key()})
    assert [rows.row(number)["value"] for number in range(3)] == values
    again = pickle.loads(pickle.dumps(rows))
    assert again.row(1)["value"] == values[1]


def test_a_made_up_value_is_a_cell_that_can_be_read(column: Column, tmp_path: Path) -> None:
    value = made(column)
    assert column.read_cell(value, str(tmp_path)) == value


def test_what_fits_no_kind_is_refused_in_words(column: Column, tmp_path: Path) -> None:
    for value in (None, float("nan"), object()):
        with pytest.raises(BadCell) as refused:
            column.read_cell(value, str(tmp_path))
        assert len(str(refused.value)) > 5


def test_a_fingerprint_tells_values_apart_and_is_json(column: Column) -> None:
    first, second = (json.dumps(column.identity(made(column, number))) for number in range(2))
    assert first == json.dumps(column.identity(made(column, 0)))
    assert first != second or made(column, 0) == made(column, 1)


def test_labels_come_with_an_order_and_only_from_kinds_of_classes(column: Column) -> None:
    assert bool(column.made_up_labels()) == column.classes
    assert column.in_order(column.made_up_labels()[::-1]) is not None
    if column.classes:
        found = {label for number in range(3) for label in column.labels(made(column, number))}
        assert found and found <= set(column.made_up_labels())
        assert set(column.in_order(found)) == found
    else:
        assert list(column.labels(None)) == []
    assert column.classes or not column.counted


def test_the_example_of_a_request_fits_its_schema_and_is_received(column: Column) -> None:
    example = inputs(column).example(0)
    schema = column.request_schema()
    json.dumps(schema)
    if not schema:
        pytest.skip("requests hold no such column")
    jsonschema.validate(example, schema)
    allowance = Counting()
    column.accept(column.receive(example, allowance))
    assert bool(allowance.decoded) == bool(column.media_type)


def test_a_request_with_another_value_is_refused_in_words(column: Column) -> None:
    if not inputs(column).request_schema():
        pytest.skip("requests hold no such column")
    half = "\ud800"
    with pytest.raises(BadCell) as refused:
        column.accept(column.receive(half, Counting()))
    assert column.key() in refused.value.of(column.key())


def test_a_body_stands_for_a_value_where_there_is_a_media_type(column: Column) -> None:
    if not column.media_type:
        pytest.skip("a body of this kind is JSON")
    value = made(column)
    assert column.receive_body(value, Counting()) == value
    with pytest.raises(BadCell):
        column.receive_body(b"nothing of the kind", Counting())


def test_a_made_up_input_is_accepted(column: Column) -> None:
    value = made(inputs(column), train=False)
    assert column.accept(value) is not None


def test_a_page_draws_its_view(column: Column) -> None:
    value = made(column)
    targets = ("value",) if column.target else ()
    shown = ShownRow({"value": value}, {}, {"value": column.key()}, targets, ("a",), None, dict, Drawn())
    part = column.answer_view(shown) if column.target else column.view("value", shown)
    assert isinstance(part, ViewPart)
    view = RowView(0, 1.0, True, (part,))
    html = page(document(findings()), findings(), WorstRows((view,), 1))
    assert "row 0" in html


def test_several_columns_make_one_value_only_of_a_kind_that_joins_them(column: Column) -> None:
    """What is joined is stored and restored as any other value."""
    if not column.joins:
        pytest.skip(f"a value of {column.key()} is one column")
    texts, marks = {"a": "x", "b": "y"}, {"a": 1, "b": 0}
    value = column.join(marks if column.classes else texts, "")
    assert column.restored(column.stored(value)) == value
    with pytest.raises(BadCell, match="b: "):
        column.join({"a": "x" if not column.classes else 1, "b": [5]}, "")
