"""Cells as other tools write them: conversations, lists of labels, a column for each label."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.fake_tasks import Sorting
from regraft.columns.labels import LabelsColumn
from regraft.columns.messages import MessagesColumn
from regraft.contracts import BadCell, Raw, column_of
from regraft.data.cell_parsing import ColumnMapping
from regraft.data.sources.jsonl import Jsonl
from regraft.errors import DataError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LABEL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: bool(text.strip()))


def talk(cell: object) -> Any:
    return MessagesColumn().read_cell(cell, "")


@pytest.mark.parametrize(
    "cell",
    [
        TALK,
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        [{"from": "User", "content": "Hi"}, {"from": "assistant", "value": "Hello", "weight": 1}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TALK[1]],
        [{"role": "user", "content": [{"type": "text", "text": "H", "image": None}, "i"]}, TALK[1]],
        [{"role": "user", "content": "Hi", "name": "x", "tool_calls": None}, {**TALK[1], "tool_calls": []}],
        {"role": ["user", "assistant"], "content": ["Hi", "Hello"]},
        {"from": ["human", "gpt"], "value": ["Hi", "Hello"]},
        json.dumps(TALK),
        repr(TALK),
    ],
)
def test_a_conversation_is_read_however_it_is_written(cell: object) -> None:
    assert talk(cell) == TALK


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}, "message 1 calls a tool (tool_calls)"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}, "tool calls are not read: leave the row"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "calls a tool (function_call)"),
        ({"from": "function_call", "value": "{}"}, "message 1 is from 'function_call'; read are messages from human"),
        ({"from": "observation", "value": "5"}, "and tool calls are not: leave the row out, or write it as text"),
        ({"role": "assistant", "content": "x", "weight": 0}, "message 1 says that it is not trained on"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "a part of type 'image_url'; only text",
        ),
        ({"role": "user", "content": None}, "a message is {role: ..., content: ...}, both text"),
        ({"role": 5, "content": "x"}, "a message is {role: ..., content: ...}, both text"),
        ("Hi", "holds 'Hi' (str); a message is"),
    ],
)
def test_what_a_conversation_would_lose_is_refused(message: object, problem: str) -> None:
    with pytest.raises(BadCell) as refused:
        talk([message])
    assert problem in str(refused.value)


@pytest.mark.parametrize("cell", ["no JSON", "[", "__import__('os')", "(" * 10_000, "{}", {}, [], {"role": ["user"]}])
def test_what_is_no_conversation_is_refused_in_words(cell: object) -> None:
    with pytest.raises(BadCell):
        talk(cell)


def test_alpacas_columns_become_a_conversation() -> None:
    column = MessagesColumn()
    cells = {"instruction": "Add", "input": "1 and 2", "output": "3"}
    assert column.join(cells, "") == [
        {"role": "user", "content": "Add\n1 and 2"},
        {"role": "assistant", "content": "3"},
    ]
    turns = column.join({"system": "Be brief.", **cells, "input": ""}, "")
    assert [message["content"] for message in turns] == ["Be brief.", "Add", "3"]
    for wrong in ({**cells, "output": ""}, {**cells, "output": None}, {"a": "", "b": "c"}, {"output": 5, "x": "y"}):
        with pytest.raises(BadCell):
            column.join(wrong, "")


ALPACA = {"instruction": "Add", "input": "1 and 2", "output": "3"}


def mapping(kinds: dict[str, str], names: dict[str, Any]) -> ColumnMapping:
    return ColumnMapping(kinds, names, ".")


def test_alpacas_rows_are_read_by_the_line_that_the_message_gives() -> None:
    completion = {"prompt": "text", "completion": "text"}
    with pytest.raises(DataError) as refused:
        mapping(completion, {}).check(Raw(ALPACA, "f:1"), "f", Jsonl())
    assert "write data.columns: {prompt: [instruction, input], completion: output}" in refused.value.message
    with pytest.raises(DataError) as refused:
        mapping({"messages": "messages"}, {}).check(Raw(ALPACA, "f:1"), "f", Jsonl())
    assert "write data.columns: {messages: [instruction, input, output]}" in refused.value.message
    joined = mapping(completion, {"prompt": ["instruction", "input"], "completion": "output"})
    joined.check(Raw(ALPACA, "f:1"), "f", Jsonl())
    assert joined.row(Raw(ALPACA, "f:1")) == {"prompt": "Add\n1 and 2", "completion": "3"}
    assert joined.row(Raw({**ALPACA, "input": ""}, "f:2"))["prompt"] == "Add"
    with pytest.raises(BadCell, match="input: is 5"):
        joined.row(Raw({**ALPACA, "input": 5}, "f:3"))


def test_a_column_of_the_right_kind_under_another_name_is_suggested() -> None:
    row = Raw({"id": 5, "conversations": TALK, "source": "x"}, "f:1")
    with pytest.raises(DataError, match=r"write data\.columns: \{messages: conversations\}"):
        mapping({"messages": "messages"}, {}).check(row, "f", Jsonl())


def labels(cell: object) -> list[str]:
    return LabelsColumn().read_cell(cell, "")


@given(st.lists(LABEL, max_size=5))
def test_a_list_of_labels_is_read_as_python_numpy_and_json_write_it(written: list[str]) -> None:
    wanted = [label.strip() for label in written]
    assert labels(repr(written)) == labels(json.dumps(written)) == labels(written) == wanted
    if written:
        assert labels(str(np.array(written, dtype=object))) == wanted
        assert labels(repr(tuple(written))) == wanted


@pytest.mark.parametrize(
    "cell", ["[a, b]", "['a' ... 'b']", "['a''b']", "['a', b]", "[nan]", "['a'", "['\\x']", "[f'a']", "['a', ['b']]"]
)
def test_a_list_that_two_readings_are_possible_of_is_a_bad_row(cell: str) -> None:
    with pytest.raises(BadCell, match="a"):
        labels(cell)


@pytest.mark.parametrize(
    ("cell", "wanted"), [("a|b", ["a", "b"]), ("", []), ("(a)", ["(a)"]), ("{x", ["{x"]), ("[]", [])]
)
def test_other_cells_are_labels_with_bars(cell: str, wanted: list[str]) -> None:
    assert labels(cell) == wanted


@pytest.mark.parametrize("yes", [1, 1.0, "1", "1.0", True, "True", "TRUE", "yes", " true "])
@pytest.mark.parametrize("no", [0, 0.0, "0", "0.0", False, "false", "No", "", None, float("nan")])
def test_a_column_for_each_label_says_which_labels_a_row_has(yes: object, no: object) -> None:
    assert LabelsColumn().join({"toxic": yes, "rude": no, "mild": yes}, "") == ["toxic", "mild"]


@pytest.mark.parametrize("cell", [0.3, 2, -1, -1.0, "maybe", "x", [1]])
def test_what_says_neither_yes_nor_no_is_a_bad_row_that_names_the_column(cell: object) -> None:
    with pytest.raises(BadCell, match=r"rude: is .*; the column of one label holds 1 or 0, or true or false"):
        LabelsColumn().join({"toxic": 1, "rude": cell}, "")


def test_labels_that_share_a_part_are_warned_of() -> None:
    doubts = LabelsColumn().doubts
    assert "'a, b' is one label, beside others with 'b': if these are several, write 'a|b'" in str(
        doubts({"a, b", "b, c"})
    )
    assert doubts({"a; x", "b; y"}) is None
    assert "'1' and '1.0' are two labels" in str(doubts({"1", "1.0"}))
    assert column_of("label").doubts({"no", "yes"}) is None


def test_a_missing_cell_of_several_is_an_empty_one_and_none_is_a_bad_row() -> None:
    several = mapping({"text": "text", "labels": "labels"}, {"labels": ["toxic", "rude"]})
    assert several.row(Raw({"text": "a", "rude": 1}, "f:1")) == {"text": "a", "labels": ["rude"]}
    with pytest.raises(BadCell, match="has no 'toxic', 'rude'"):
        several.row(Raw({"text": "a"}, "f:1"))
    with pytest.raises(DataError, match="has no column 'toxic'"):
        several.check(Raw({"text": "a", "rude": 1}, "f:1"), "f", Jsonl())


def test_other_kinds_are_of_one_column() -> None:
    kinds = {name for name in ("label", "number", "image", "words", "tags", "boxes") if column_of(name).joins}
    assert not kinds
    assert Sorting().input_columns() == {"text": "text", "label": "label"}


def test_columns_of_single_labels_are_named_where_the_labels_are_missing() -> None:
    both = mapping({"text": "text", "labels": "labels"}, {})
    with pytest.raises(DataError) as refused:
        both.check(Raw({"text": "a", "toxic": "0", "rude": "1"}, "f:1"), "f", Jsonl())
    assert "write data.columns: {text: text, labels: [toxic, rude]}" in refused.value.message
    with pytest.raises(DataError) as refused:
        both.check(Raw({"id": "x", "comment": "a", "toxic": 0, "rude": 1}, "f:1"), "f", Jsonl())
    assert "if each label has a column of its own, write them in data.columns: {labels: [toxic, rude]}" in str(
        refused.value
    )
    with pytest.raises(DataError, match=r"write in data\.columns what they are called"):
        both.check(Raw({"text": "a", "toxic": "0", "stars": "5"}, "f:1"), "f", Jsonl())


def test_a_column_of_the_systems_goes_before_the_conversation() -> None:
    column = MessagesColumn()
    assert column.join({"system": "Be brief.", "conversations": TALK}, "") == [
        {"role": "system", "content": "Be brief."},
        *TALK,
    ]
    for empty in ("", None, float("nan")):
        assert column.join({"system": empty, "conversations": TALK}, "") == TALK
    for system, talked in ((5, TALK), ("x", [{"role": "system", "content": "y"}, *TALK])):
        with pytest.raises(BadCell, match="system: "):
            column.join({"system": system, "conversations": talked}, "")
