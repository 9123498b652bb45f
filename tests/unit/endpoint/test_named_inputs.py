"""An error names the input by its index and its column, in every form of a request; other errors name the way."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from regraft.contracts import Task
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.request_body import parse_request
from regraft.spec.serve import LimitSpec
from unit.endpoint.model_store import FAMILY, Endpoint, ModelStore
from unit.every.rows import TEXTS, picture, task_of

PICTURE = base64.b64encode(picture(0)).decode()
CUT = base64.b64encode(picture(0)[:200]).decode()
ASKED = ("text-classification", "token-classification", "image-classification", "text-pair-classification")


@pytest.fixture(scope="module")
def asked(model_store: ModelStore, endpoint: Endpoint) -> Endpoint:
    return model_store.serve(ASKED, endpoint)


BAD = [
    ("text-classification", TEXTS[0], " ", "text"),
    ("text-classification", TEXTS[0], {"text": ""}, "text"),
    ("text-classification", {"text": TEXTS[0]}, {"text": 3}, "text"),
    ("text-classification", TEXTS[0], {"txt": "a"}, "txt"),
    ("text-classification", TEXTS[0], {"text": None}, "text"),
    ("token-classification", ["w5", "w6"], ["w5", " "], "tokens"),
    ("token-classification", "w5 w6", {"tokens": []}, "tokens"),
    ("image-classification", PICTURE, CUT, "image"),
    ("image-classification", PICTURE, "photo.png", "image"),
    ("image-classification", {"image": PICTURE}, {"image": 7}, "image"),
    ("text-pair-classification", {"text": "a", "pair": "b"}, {"text": "a"}, "pair"),
    ("text-pair-classification", {"text": "a", "pair": "b"}, {"text": " ", "pair": "b"}, "text"),
    ("text-pair-classification", {"text": "a", "text_pair": "b"}, {"text": "a", "pair": ["b"]}, "pair"),
]


@pytest.mark.parametrize("task, good, bad, column", BAD)
def test_an_input_that_does_not_fit_is_named(task: str, good: Any, bad: Any, column: str, asked: Endpoint) -> None:
    for inputs, number in (([good, good, bad, good], 2), ([bad, good], 0)):
        reply = asked.ask(f"/models/{task}", {"inputs": inputs})
        error = reply.document["error"]
        assert reply.status == 422 and error.startswith(f"input {number}: ") and column in error, error
    reply = asked.ask(f"/models/{task}", {"inputs": bad})
    if isinstance(bad, list):  # a list of texts is several inputs
        assert "input 1: tokens" in reply.document["error"]
        return
    assert reply.status == 422 and reply.document["error"].startswith("input 0: ") and column in reply.document["error"]


def test_the_file_itself_is_named_by_its_column(asked: Endpoint) -> None:
    for body in (b"no picture", picture(0)[:200], b""):
        reply = asked.ask("/models/image-classification", body, headers={"content-type": "image/png"})
        assert reply.status == 422 and "image" in reply.document["error"], reply.document


def test_too_many_pixels_name_the_input() -> None:
    task = task_of("image-classification")
    body = f'{{"inputs": ["{PICTURE}", "{PICTURE}"]}}'.encode()
    with pytest.raises(HttpError, match="input 0: image: the picture has") as caught:
        parse_request(body, "", task, LimitSpec(megapixels=1e-4))
    assert caught.value.status == 413
    with pytest.raises(HttpError, match="input 1: image: at most"):
        parse_request(body, "", task, LimitSpec(all_megapixels=1.5e-3))


def test_an_answer_that_fails_names_its_input(asked: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.errors import DataError

    served = asked.opened.backend.open("text-classification", "v1")
    answers = type(served.task).answers

    def failing(self: Task, output: Any, batch: Any, context: Any) -> Any:
        if (batch["input_ids"] == 11).any():
            raise DataError("does not fit the base", where="row 0")
        return answers(self, output, batch, context)

    monkeypatch.setattr(type(served.task), "answers", failing)
    reply = asked.ask("/models/text-classification", {"inputs": ["w5 w6", "w7 w8", "w11 w5"]})
    assert (reply.status, reply.document["error"]) == (422, "input 2: column 'text': does not fit the base")


class Panic(BaseException):
    """An error like those of extensions in Rust, which is no Exception."""


def test_a_panic_of_an_extension_is_an_error_in_json(asked: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = asked.opened.backend._engine  # type: ignore[attr-defined]

    def panicking(request: Any) -> Any:
        raise Panic("index out of bounds")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "encode", panicking)
        reply = asked.ask("/models/text-classification", {"inputs": "w5"})
    assert (reply.status, reply.document["kind"]) == (500, "Panic")
    assert asked.ask("/models/text-classification", {"inputs": "w5"}).status == 200


def test_parameters_of_generation_name_the_way() -> None:
    task = task_of("text-generation")
    for name, message in (
        ("max_new_tokens", "it is 4 for this model, as task.max_new_tokens of the spec"),
        ("temperature", "task.temperature"),
        ("return_full_text", "Leave it out: what a model does is set when it is trained (task.form"),
    ):
        body = f'{{"inputs": "a", "parameters": {{"{name}": 5}}}}'.encode()
        with pytest.raises(HttpError) as caught:
            parse_request(body, "", task, LimitSpec())
        assert message in caught.value.message
    with pytest.raises(HttpError, match="not streamed: leave it out"):
        parse_request(b'{"inputs": "a", "stream": true}', "", task, LimitSpec())


@pytest.mark.parametrize("written", [0, 0.0, 0.2])
def test_a_threshold_below_the_trained_one_is_refused_with_the_reason(written: float) -> None:
    task = Task.parse({"type": "object-detection", "threshold": 0.3})
    assert isinstance(task, Task)
    body = f'{{"inputs": "{PICTURE}", "parameters": {{"threshold": {written}}}}}'.encode()
    with pytest.raises(HttpError, match=r"0\.3 or more for this model: .*task\.threshold") as caught:
        parse_request(body, "", task, LimitSpec())
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "path, message",
    [
        ("/metrics", "without Ray"),
        ("/v1/chat/completions", "POST /models/NAME"),
        ("/models/text-classification/v1/chat/completions", "POST /models/NAME"),
        ("/v1/models", "POST /models/NAME"),
        ("/predict", "there are /, /models"),
    ],
)
def test_addresses_of_other_servers_name_the_way(path: str, message: str, endpoint: Endpoint) -> None:
    for method in ("GET", "POST"):
        reply = endpoint.ask(path, method=method)
        assert reply.status == 404 and message in reply.document["error"]


def test_the_document_lists_what_is_accepted(asked: Endpoint) -> None:
    api = asked.get("/openapi.json").document
    posts = [api["paths"]["/models/{reference}"]["post"], *(api["paths"][f"/models/{task}"]["post"] for task in ASKED)]
    for post in posts:
        content = post["requestBody"]["content"]
        assert {"application/json", "multipart/form-data", "application/x-www-form-urlencoded"} <= set(content)
        assert "415" in post["responses"]
        assert "Content-Encoding" in [item["name"] for item in post["parameters"]]
    image = api["paths"]["/models/image-classification"]["post"]["requestBody"]["content"]
    assert image["multipart/form-data"]["schema"]["properties"]["image"]["format"] == "binary"
    assert "image/*" in image
    assert set(ASKED) <= set(FAMILY)
