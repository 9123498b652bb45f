"""Packed bodies are unpacked within the limits; other codings and byte order marks are named or passed over."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from functools import cache

import pytest

from regraft.endpoint.body_reader import BodyBudget
from regraft.endpoint.content_coding import LARGEST_RATIO, coding_of, unpack, unpacked
from regraft.endpoint.http_errors import HttpError
from regraft.endpoint.json_body import parse_json
from regraft.endpoint.request_body import parse_request
from regraft.spec.serve import LimitSpec
from support.coroutines import run_apart
from unit.endpoint.model_store import Endpoint
from unit.every.rows import task_of

BODY = json.dumps({"inputs": "w5 w6 w7"}).encode()
MODEL = "/models/text-classification"
MOST = 1 << 20


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY, 1),
    "GZIP": gzip.compress(BODY, 0),
    "gzip, identity": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    " Deflate ": raw(BODY),
}


@cache
def bomb() -> bytes:
    """64 MB of zeros in 64 kB."""
    return gzip.compress(bytes(64 << 20), 9)


@pytest.mark.parametrize("coding", PACKED)
def test_a_packed_body_gets_the_answer_of_a_plain_one(coding: str, endpoint: Endpoint) -> None:
    wanted = endpoint.ask(MODEL, BODY)
    found = endpoint.ask(MODEL, PACKED[coding], headers={"content-encoding": coding})
    assert (found.status, found.body) == (200, wanted.body)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "aws-chunked"])
def test_another_coding_is_refused_by_its_name(coding: str, endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, BODY, headers={"content-encoding": coding})
    assert reply.status == 415 and coding in reply.document["error"] and "gzip" in reply.headers["accept-encoding"]


def test_members_one_after_the_other_and_padding_are_one_body() -> None:
    halves = gzip.compress(BODY[:9]) + gzip.compress(b"") + gzip.compress(BODY[9:]) + b"\0" * 512
    assert unpacked(halves, "gzip", MOST) == BODY
    large = bytes(range(256)) * 3000
    assert unpacked(gzip.compress(large), "gzip", MOST) == unpacked(raw(large), "deflate", MOST) == large


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_is_cut_off_or_followed_by_something_is_refused(coding: str) -> None:
    whole = {"gzip": gzip.compress, "deflate": raw}[coding](bytes(range(256)) * 50)
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        with pytest.raises(HttpError) as caught:
            unpacked(whole[:at], coding, MOST)
        assert caught.value.status == 422
    with pytest.raises(HttpError):
        unpacked(whole + b"more", coding, MOST)
    with pytest.raises(HttpError, match="which Content-Encoding says"):
        unpacked(b"\xff" + BODY, coding, MOST)


def test_a_bomb_is_refused_when_it_exceeds_the_limit_and_not_later() -> None:
    assert len(bomb()) < MOST
    tracemalloc.start()
    with pytest.raises(HttpError) as caught:
        unpacked(bomb(), "gzip", MOST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413 and "unpacks to more than 1,048,576 bytes" in caught.value.message
    assert peak < 8 * MOST


def test_many_small_members_are_refused() -> None:
    with pytest.raises(HttpError, match="more than 1024 members"):
        unpacked(gzip.compress(b"") * 100_000, "gzip", MOST)


def test_what_may_be_unpacked_at_once_counts_in_the_budget() -> None:
    packed = gzip.compress(BODY)
    budget = BodyBudget(4, LARGEST_RATIO * len(packed) - 1)
    with pytest.raises(HttpError) as caught:
        run_apart(unpack(packed, "gzip", MOST, budget=budget))
    assert caught.value.status == 503
    assert run_apart(unpack(packed, "gzip", MOST, budget=BodyBudget(4, LARGEST_RATIO * len(packed)))) == BODY
    assert not budget.full()


def test_a_packed_body_above_the_limit_is_refused_over_http(endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, bomb(), headers={"content-encoding": "gzip"})
    assert reply.status == 413 and reply.headers["connection"] == "close"


def test_a_plain_body_has_no_coding() -> None:
    assert coding_of("") is None and coding_of("identity") is None and coding_of(" , ") is None


def test_a_byte_order_mark_before_json_is_passed_over(endpoint: Endpoint) -> None:
    reply = endpoint.ask(MODEL, b"\xef\xbb\xbf" + BODY, headers={"content-type": "application/json; charset=utf-8"})
    assert (reply.status, reply.body) == (200, endpoint.ask(MODEL, BODY).body)
    image = task_of("image-classification")
    with pytest.raises(HttpError, match="input 0: image is a number"):  # JSON, and not the file itself
        parse_request(b'\xef\xbb\xbf {"inputs": 3}', "", image, LimitSpec())


@pytest.mark.parametrize(
    "body, message",
    [
        ('{"inputs": "a"}'.encode("utf-16"), "it is UTF-16"),
        ('{"inputs": "a"}'.encode("utf-16-le"), "it is UTF-16-LE"),
        ('{"inputs": "a"}'.encode("utf-32"), "it is UTF-32"),
        ('{"inputs": "café"}'.encode("latin-1"), "byte 15 is 0xE9.*charset=utf-8"),
        (b"", "is not JSON"),
        (b"\xef\xbb\xbf", "is not JSON"),
        (b"inputs=a", "is not JSON"),
    ],
)
def test_another_encoding_is_named(body: bytes, message: str) -> None:
    with pytest.raises(HttpError, match=message):
        parse_json(body)


def test_a_picture_under_the_media_type_of_json_is_refused_with_the_way() -> None:
    with pytest.raises(HttpError, match="Content-Type: image"):
        parse_request(b"\x89PNG\r\n\x1a\n\0\0\0", "application/json", task_of("image-classification"), LimitSpec())
