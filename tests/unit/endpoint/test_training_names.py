"""A client sends a row as the training files have it: their column names, with what else stands in it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest

from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.openapi import input_schema
from regraft.endpoint.request_body import ParsedRequest, parse_request
from regraft.errors import DataError
from regraft.serving.row_checks import check_rows
from regraft.spec.column_names import Names
from regraft.spec.serve import LimitSpec
from unit.endpoint.model_store import ModelStore
from unit.every.rows import TEXTS, task_of

TEXT, PAIR, WORDS = (task_of(f"{name}-classification") for name in ("text", "text-pair", "token"))
Case = tuple[Any, dict[str, Names], Any]
SAME: list[Case] = [
    (TEXT, {"text": "review", "label": "stars"}, {"review": "good lamp"}),
    (TEXT, {"text": "review", "label": "stars"}, {"review": "good lamp", "stars": 4}),
    (TEXT, {"text": "review", "label": "stars"}, {"text": "good lamp", "label": "4", "stars": 4}),
    (TEXT, {"text": "example.en"}, {"example": {"en": "good lamp", "de": "gute Lampe"}}),
    (TEXT, {"text": ["title", "body"]}, {"title": "good", "body": "lamp"}),
    (TEXT, {"text": ["title", "body"]}, {"title": "good", "body": None}),
    (PAIR, {"text": "premise", "pair": "hypothesis"}, {"premise": "a", "hypothesis": "b"}),
    (PAIR, {"text": "premise", "pair": "hypothesis"}, {"premise": "a", "pair": "b", "label": "x"}),
    (PAIR, {"text": "pair", "pair": "text"}, {"text": "a", "pair": "b"}),
    (WORDS, {"tokens": "words", "tags": "ner_tags"}, {"words": ["good", "lamp"], "ner_tags": ["O", "O"]}),
]
REFUSED: list[Case] = [
    (TEXT, {"text": "review"}, {"revue": "good lamp"}),
    (TEXT, {"text": "review"}, {"review": "good lamp", "colour": "red"}),
    (TEXT, {"text": "review"}, {"review": 3}),
    (TEXT, {"text": "review"}, {"review": None}),
    (TEXT, {"text": ["title", "body"]}, {"title": "good"}),
    (TEXT, {"text": ["title", "body"]}, {"title": "good", "body": 4}),
    (TEXT, {"text": "example.en"}, {"example": {"de": "gute Lampe"}}),
    (PAIR, {"text": "premise", "pair": "hypothesis"}, {"premise": "a"}),
]


def received(task: Any, inputs: Any, names: dict[str, Names]) -> ParsedRequest:
    return parse_request(json.dumps({"inputs": inputs}).encode(), "", task, LimitSpec(), names=names)


@pytest.mark.parametrize("task, names, row", SAME)
def test_a_request_reads_what_predict_reads_in_python(task: Any, names: dict[str, Names], row: Any) -> None:
    (here,) = check_rows(task, [row], names)
    del here["row"]
    assert received(task, row, names).rows == [here]
    assert received(task, [row, row], names).rows == [here, here]


@pytest.mark.parametrize("task, names, row", REFUSED)
def test_a_request_refuses_what_predict_refuses_in_python(task: Any, names: dict[str, Names], row: Any) -> None:
    with pytest.raises(DataError):
        check_rows(task, [row], names)
    with pytest.raises(HttpError) as caught:
        received(task, [row], names)
    assert caught.value.status == 422 and caught.value.message.startswith("input 0: ")


def test_a_missing_column_is_named_as_the_training_files_name_it() -> None:
    with pytest.raises(HttpError, match=r"'text' is missing; an input has text \(in the training files review\)"):
        received(TEXT, [{"review": None}], {"text": "review"})
    with pytest.raises(HttpError, match="input 0: body is a number; allowed is a text"):
        received(TEXT, [{"title": "a", "body": 4}], {"text": ["title", "body"]})


def test_fields_of_a_form_may_have_the_names_of_the_training_files() -> None:
    names: dict[str, Names] = {"text": "premise", "pair": "hypothesis"}
    body = urlencode([("premise", "a"), ("hypothesis", "b")]).encode()
    found = parse_request(body, "application/x-www-form-urlencoded", PAIR, LimitSpec(), names=names)
    assert found.rows == [{"text": "a", "pair": "b"}]
    swapped = parse_request(
        b"text=a&pair=b", "application/x-www-form-urlencoded", PAIR, LimitSpec(), names={"text": "pair", "pair": "text"}
    )
    assert swapped.rows == [{"text": "a", "pair": "b"}], "its own names come first"


def test_the_schema_of_an_input_allows_both_names() -> None:
    names: dict[str, Names] = {"text": "premise", "pair": "hypothesis"}
    for row in ({"text": "a", "pair": "b"}, {"premise": "a", "hypothesis": "b"}):
        jsonschema.validate(row, input_schema(PAIR, names))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"premise": "a", "hypothesis": "b"}, input_schema(PAIR))


def test_an_endpoint_answers_a_row_of_the_training_files(own: ModelStore) -> None:
    from regraft.serving.predictor import Predictor

    own.add(name="reviews", spec={"data": {"columns": {"text": "review", "label": "stars"}}})
    own.add(name="damaged", spec=b"data: [1\n")
    with own.open() as endpoint:
        plain = endpoint.ask("/models/reviews", {"inputs": TEXTS[0]}).document
        row = {"review": TEXTS[0], "stars": 3}
        assert endpoint.ask("/models/reviews", {"inputs": row}).document == plain
        assert endpoint.get("/models/reviews").document["training_names"] == {"text": "review", "label": "stars"}
        assert endpoint.ask("/models/text-classification", {"inputs": row}).status == 422
        assert endpoint.ask("/models/damaged", {"inputs": TEXTS[0]}).status == 200
        schema = endpoint.get("/openapi.json").document["components"]["schemas"]["model-reviews-request"]
        assert "review" in json.dumps(schema)
    predictor = Predictor.open(own.store, "reviews", device="cpu")
    assert predictor.column_names == {"text": "review", "label": "stars"}
    assert predictor.predict([row])[0]["label"] == predictor.predict(TEXTS[:1])[0]["label"]
