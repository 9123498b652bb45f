"""The doors of an endpoint: one bad version hides nothing, panics are answered, pages of other origins are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from regraft.endpoint import model_info, openapi
from regraft.endpoint.http_errors import http_error_of, without_folders
from regraft.errors import RegraftError
from unit.endpoint.model_store import Endpoint, ModelStore

MODEL = "/models/text-classification"
ASKED = {"inputs": "w5"}
PLACES = (
    "/srv/regraft/bases/bert", "s3://bucket/prefix/models/a/v1/meta.json", "http://minio.inside.example:9000/bucket",
    "/home/someone/.cache/x.py", "https://10.0.0.7:9000/b/c?X-Amz-Signature=abc", "file:///srv/keys.yaml",
    "minio.inside.example:9000", "minio:9000", "10.0.0.7:443", "10.0.0.7", "[fd00:10:0:0:7::1]:9000", "localhost:8265",
)  # fmt: skip
INSIDE = (
    "/srv",
    "minio",
    "10.0.0.7",
    "fd00",
    "8265",
    "9000",
    "someone",
    "Signature",
    "bucket",
    "keys.yaml",
    "Traceback",
    'File "',
)


class PanicException(BaseException):
    """The error that an extension in Rust raises when it panics."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, clean_environment: None) -> ModelStore:
    made = ModelStore(tmp_path_factory.mktemp("doors"))
    made.add()
    made.add(name="bad", seed=2)
    return made


@pytest.fixture(scope="module")
def endpoint(store: ModelStore) -> Iterator[Endpoint]:
    with store.open() as running:
        yield running


@pytest.mark.parametrize("error", [PanicException("at /srv/x.rs"), KeyError("/srv/x"), RecursionError(), MemoryError()])
def test_one_version_that_fails_in_any_way_hides_no_other(
    error: BaseException, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, brief = endpoint.opened.backend.open, model_info._brief

    def fails(name: str, version: str) -> Any:
        if name == "bad":
            raise error
        return opened(name, version)

    def fails_too(routes: Any, name: str) -> Any:
        if name == "bad":
            raise error
        return brief(routes, name)

    monkeypatch.setattr(endpoint.opened.backend, "open", fails)
    monkeypatch.setattr(model_info, "_brief", fails_too)
    names = [model["name"] for model in endpoint.get("/models").document["models"]]
    assert names == ["bad", "text-classification"]
    paths = endpoint.get("/openapi.json").document["paths"]
    assert MODEL in paths and "/models/bad" not in paths
    for path in ("/docs", "/", "/readyz", MODEL):
        assert endpoint.get(path).status == 200
    reply = endpoint.get("/models/bad")
    assert (reply.status, reply.document["kind"]) == (500, type(error).__name__)
    assert not [word for word in INSIDE if word in reply.body.decode()]


@pytest.mark.parametrize("path", ["/models", "/openapi.json", MODEL])
def test_a_panic_in_a_document_is_answered_as_json(
    path: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(*_: Any) -> Any:
        raise PanicException("called `unwrap()` on a `None` value at /srv/x.rs")

    monkeypatch.setattr(endpoint.opened.routes, "models", panics)
    monkeypatch.setattr(openapi, "_paths", panics)
    reply = endpoint.get(path)
    assert (reply.status, reply.document["kind"]) == (500, "PanicException")
    assert reply.headers["content-type"] == "application/json" and "unwrap" not in reply.document["error"]


def every_error() -> list[type[RegraftError]]:
    """Return every class of the error tree that a message can be given to."""
    found, left = [], [RegraftError]
    while left:
        left += (kind := left.pop()).__subclasses__()
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_no_error_discloses_a_place_of_the_inside(kind: type[RegraftError]) -> None:
    for place in PLACES:
        for text in (f"{place}: cannot be read", f"cannot read '{place}'", f"no reply from {place} (timeout)"):
            try:
                error = kind(text, place)  # type: ignore[call-arg]
            except TypeError:
                error = kind(text)
            message = http_error_of(error, "m").message
            inside = [word for word in INSIDE if word in message and word != "keys.yaml"]
            assert not inside, message


@pytest.mark.parametrize(
    "text",
    [
        "train.csv:120: text is empty",
        "data.jsonl:7: 12:30:45 is no number",
        "input 2: 'at 10:30' is given",
        "scores: {'a': 1000}, tiny@v1:2 and x[10:20]",
        "torch 2.4.1 at row 3",
    ],
)
def test_what_is_no_place_stays_in_a_message(text: str) -> None:
    assert without_folders(text) == text


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://localhost:1"]
)
def test_a_page_of_another_origin_sends_nothing_here(kind: str, origin: str, endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, ASKED, headers={"content-type": kind, "origin": origin})
    assert (reply.status, reply.document["kind"]) == (403, "StrangeOrigin")


@pytest.mark.parametrize("path", [MODEL, "/models", "/openapi.json", "/docs", "/"])
def test_a_name_that_points_here_reads_no_model(path: str, endpoint: Endpoint) -> None:
    headers = {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"}
    reply = endpoint.get(path, headers=headers)
    assert reply.status == 403 or b"text-classification" not in reply.body
