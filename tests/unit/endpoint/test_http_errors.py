"""Requests that cannot be answered get a status, a kind, a reason and what to do, and never a traceback."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from regraft.endpoint.http_errors import http_error_of
from regraft.errors import BaseError, DataError, PermissionDenied, RunError
from unit.endpoint.model_store import Endpoint, ModelStore, Reply
from unit.every.rows import picture

MODEL = "/models/text-classification"
PICTURE = base64.b64encode(picture(0)).decode()


def refused(reply: Reply, status: int, message: str) -> None:
    """Check that a reply is a correct error."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.document) == {"error", "kind", "status"}
    assert reply.document["status"] == status
    assert message in reply.document["error"]
    assert "Traceback" not in reply.body.decode()


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (json.dumps({"inputs": eval("[" * 40 + "]" * 40)}).encode(), "nested deeper than 16"),
        (b'{"inputs": NaN}', "NaN is written"),
        (b"[]", "is a JSON list"),
        (b"{}", '"inputs" is missing'),
        (b'{"input": "a"}', "Did you mean 'inputs'?"),
        (b'{"inputs": 7}', "is a number; allowed is a text"),
        (b'{"inputs": null}', "is missing"),
        (b'{"inputs": {"txt": "a"}}', "Unknown column 'txt'"),
        (b'{"inputs": ["a", 7]}', "input 1: text is a number"),
        (b'{"inputs": "  "}', "text is empty"),
        (b'{"inputs": "\\ud800"}', "half of a surrogate pair"),
        (b'{"inputs": "a", "parameters": []}', ""),
        (b'{"inputs": "a", "parameters": [1]}', "parameters is a list"),
        (b'{"inputs": "a", "stream": true}', "answers are not streamed"),
        (b'{"inputs": 1' + b"0" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_body_that_does_not_fit(body: bytes, message: str, endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, body)
    if message:
        refused(reply, 422, message)
        assert reply.headers["x-model-version"] == "v1"
    else:
        assert reply.status in (200, 422)


def test_a_name_that_is_not_there(endpoint: Endpoint) -> None:
    refused(endpoint.ask("/models/text-clasification", {"inputs": "a"}), 404, "did you mean 'text-classification'?")
    refused(endpoint.ask(f"{MODEL}@v9", {"inputs": "a"}), 404, "there are v1")
    refused(endpoint.ask(f"{MODEL}@production", {"inputs": "a"}), 404, "production")
    refused(endpoint.ask("/models/..%2f..%2fetc", {"inputs": "a"}), 404, "nothing at")
    refused(endpoint.ask("/models/A%20B", {"inputs": "a"}), 404, "a-z")
    refused(endpoint.get("/models/nobody"), 404, "does not exist")
    refused(endpoint.get("/nowhere"), 404, "there is nothing at /nowhere")
    refused(endpoint.ask("/models", {"inputs": "a"}), 405, "is not answered here")


def test_a_list_of_nothing_is_answered_with_nothing(endpoint: Endpoint) -> None:
    assert endpoint.ask(MODEL, {"inputs": []}).document == []


def test_a_delta_that_was_changed_in_the_store_is_409_and_the_others_answer(own: ModelStore) -> None:
    own.add(name="spoilt", seed=2)
    (delta,) = Path(own.store).glob("models/spoilt/v1/delta.safetensors")
    delta.write_bytes(delta.read_bytes()[:-4] + b"oops")
    with own.open() as endpoint:
        refused(endpoint.ask("/models/spoilt", {"inputs": "w5"}), 409, "delta.safetensors")
        refused(endpoint.get("/models/spoilt"), 409, "delta.safetensors")
        assert endpoint.ask(MODEL, {"inputs": "w5"}).status == 200


def test_a_base_that_is_gone_or_another_is_424(own: ModelStore) -> None:
    folder = own.folder / "bases" / "bert"
    shutil.move(folder, own.folder / "elsewhere")
    with own.open() as endpoint:
        refused(endpoint.ask(MODEL, {"inputs": "w5"}), 424, "its base cannot be used")
        for path, method in ((MODEL, "POST"), (MODEL, "GET"), ("/models", "GET")):
            asked = {"inputs": "w5"} if method == "POST" else None
            text = endpoint.ask(path, asked, method=method).body.decode()
            assert str(own.folder) not in text, "where a server keeps its files is nobody's business"
        shutil.copytree(own.folder / "elsewhere", folder)
        (folder / "config.json").write_text((folder / "config.json").read_text().replace("1e-12", "1e-11"))
        refused(endpoint.ask(MODEL, {"inputs": "w5"}), 424, "")


def test_a_task_of_a_user_s_that_is_not_here_is_424(own: ModelStore) -> None:
    version = own.registry.version("text-classification")
    meta = {**version.meta, "task": {"type": "of-mine"}, "delta_sha256": "0"}
    folder = own.registry.fetch(version, own.folder / "copy")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    files.pop("manifest.json", None)
    own.registry.publish("mine", files, {k: v for k, v in meta.items() if k not in ("name", "version")})
    with own.open() as endpoint:
        refused(endpoint.ask("/models/mine", {"inputs": "w5"}), 424, "of-mine")


def test_what_is_too_large_is_413(own: ModelStore) -> None:
    own.add("image-classification")
    limits = {"body_bytes": 20_000, "items": 3, "tokens": 20, "megapixels": 0.001}
    with own.open(limits=limits) as endpoint:
        refused(endpoint.ask(MODEL, {"inputs": ["w5"] * 4}), 413, "4 inputs are asked at once; at most 3")
        refused(endpoint.ask(MODEL, {"inputs": ["w5 " * 9] * 3}), 413, "tokens are asked at once; at most 20")
        refused(endpoint.ask(MODEL, {"inputs": "w5 " * 200}), 413, "characters are asked at once; at most 320")
        for more in ({}, {"transfer-encoding": "chunked"}):
            refused(endpoint.ask(MODEL, b'{"inputs": "' + b"a" * 30_000 + b'"}', headers=more), 413, "larger than")
        refused(endpoint.ask("/models/image-classification", {"inputs": PICTURE}), 413, "40 x 30 pixels; at most 0.001")
        raw = endpoint.ask("/models/image-classification", picture(0), headers={"content-type": "image/png"})
        refused(raw, 413, "40 x 30 pixels")
        assert endpoint.ask(MODEL, {"inputs": "w5"}).status == 200


def test_pictures_of_one_request_are_counted_together(own: ModelStore) -> None:
    own.add("image-classification")
    with own.open(limits={"all_megapixels": 0.003}) as endpoint:
        path = "/models/image-classification"
        assert endpoint.ask(path, {"inputs": [PICTURE] * 2}).status == 200
        refused(endpoint.ask(path, {"inputs": [PICTURE] * 3}), 413, "input 2: image: at most 0.003 megapixels of all")


def test_words_that_are_empty_are_counted(own: ModelStore) -> None:
    own.add("token-classification")
    with own.open(limits={"tokens": 100}) as endpoint:
        refused(endpoint.ask("/models/token-classification", {"inputs": [[""] * 2000]}), 413, "characters are asked")


def icon() -> bytes:
    """Return an ICO whose picture is much larger than its header says."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "PNG")
    data = file.getvalue()
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(data), 22) + data


def program() -> bytes:
    """Return an EPS, which Pillow would pass to Ghostscript."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    return file.getvalue()


def bomb() -> bytes:
    """Return a PNG of 65535 x 65535 without pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (65535).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    "inputs, status, message",
    [
        (bomb(), 413, "pixels"),
        (picture(0)[:200], 422, "not readable"),
        (b"no picture", 422, "not an image of a known format"),
        (icon(), 422, "allowed are PNG, JPEG"),
        (program(), 422, "allowed are PNG, JPEG"),
        (b"", 422, "is empty"),
        ("/etc/hostname", 422, "not base64"),
        ("file:///etc/hostname", 422, "not base64"),
        ("http://169.254.169.254/latest", 422, "not base64"),
        ("cGFzc3dk", 422, "not an image of a known format"),
        (7, 422, "a picture's file in base64"),
        ({"image": "s3://bucket/key"}, 422, "not base64"),
        ([PICTURE, "!"], 422, "input 1: image is not base64"),
    ],
)
def test_a_picture_that_is_none(
    inputs: Any, status: int, message: str, model_store: ModelStore, endpoint: Endpoint
) -> None:
    if "image-classification" not in model_store.registry.models():
        model_store.add("image-classification")
    body = inputs if isinstance(inputs, bytes) else {"inputs": inputs}
    kind = {"content-type": "image/png"} if isinstance(inputs, bytes) else {}
    refused(endpoint.ask("/models/image-classification", body, headers=kind), status, message)


def test_a_picture_in_a_data_url_is_read(model_store: ModelStore, endpoint: Endpoint) -> None:
    if "image-classification" not in model_store.registry.models():
        model_store.add("image-classification")
    plain = endpoint.ask("/models/image-classification", {"inputs": PICTURE})
    assert plain.status == 200
    reply = endpoint.ask("/models/image-classification", {"inputs": "data:image/png;base64," + PICTURE})
    assert reply.body == plain.body


def test_an_error_nobody_foresaw_tells_nothing_but_its_class() -> None:
    error = http_error_of(ZeroDivisionError("secret in the text"), "tickets")
    assert (error.status, error.kind) == (500, "ZeroDivisionError")
    assert "secret" not in error.message
    unreachable = http_error_of(PermissionDenied("no permission at s3.inside.example:9000", "s3://private"))
    assert unreachable.status == 503 and "inside" not in unreachable.message and "try again" in unreachable.message
    assert "s3://" not in http_error_of(PermissionDenied("no permission", "s3://private")).message
    assert "secret" not in http_error_of(RunError("it could not be answered: KeyError: secret")).message
    assert http_error_of(BaseError("/srv/bases/bert: is gone; s3://b/c/d too")).message == "bert: is gone; d too"
    assert http_error_of(DataError("is empty", "row 3")).message == "row 3: is empty"
