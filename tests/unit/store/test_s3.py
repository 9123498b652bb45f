"""Faults of S3 servers: lost responses, interrupted downloads, quotes, wrong credentials, no server."""

from __future__ import annotations

import pickle
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest

from doubles.fake_s3 import FakeS3, Request
from regraft.errors import Conflict, NotFound, PermissionDenied, RegraftError, RequestError, StoreError
from regraft.store import multipart, s3
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import ObjectStore, open_store
from support.local_s3 import local_server


@pytest.fixture
def store(flaky: FakeS3) -> ObjectStore:
    return open_store("s3://b/p")


class Times:
    """Return a fault for the first `count` requests that begin with `what`."""

    def __init__(self, fault: str, what: str, count: int = 1) -> None:
        self.fault, self.what, self.left = fault, what, count

    def __call__(self, request: Request) -> str:
        if self.left and f"{request.command} {request.key}".startswith(self.what):
            self.left -= 1
            return self.fault
        return ""


def test_a_lost_answer_to_our_own_creation_is_no_loss(flaky: FakeS3, store: ObjectStore) -> None:
    flaky.fault = Times("lost", "PUT")
    store.put_if_absent("a", b"ours 1")
    assert flaky.seen.count("PUT p/a") == 2
    assert store.get("a") == b"ours 1"


def test_a_retried_creation_that_somebody_else_won_is_lost(flaky: FakeS3, store: ObjectStore) -> None:
    store.put("a", b"theirs")
    flaky.fault = Times("reset", "PUT")
    with pytest.raises(Conflict):
        store.put_if_absent("a", b"ours")
    assert store.get("a") == b"theirs"


def test_equal_bytes_that_were_there_before_are_lost(flaky: FakeS3, store: ObjectStore) -> None:
    store.put("a", b"same")
    with pytest.raises(Conflict):
        store.put_if_absent("a", b"same")


def test_a_lost_answer_to_our_own_replacement_is_no_loss(flaky: FakeS3, store: ObjectStore) -> None:
    store.put("a", b"1")
    tag = store.read("a")[1]
    flaky.fault = Times("lost", "PUT")
    store.put_if_match("a", b"ours 2", tag)
    assert store.get("a") == b"ours 2"
    with pytest.raises(Conflict):
        store.put_if_match("a", b"ours 3", tag)


def test_a_conflict_is_tried_again_and_then_lost(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_TRIES", 3)
    flaky.fault = Times("409:ConditionalRequestConflict", "PUT", 2)
    store.put_if_absent("a", b"1")
    flaky.fault = Times("409:ConditionalRequestConflict", "PUT", 100)
    with pytest.raises(Conflict):
        store.put_if_absent("b", b"1")


def test_writers_that_meet_in_ceph_get_500_and_try_again(flaky: FakeS3, store: ObjectStore) -> None:
    store.put("a", b"1")
    tag = store.read("a")[1]
    flaky.fault = Times("500:UnknownError", "PUT", 7)
    store.put_if_match("a", b"2", tag)
    assert store.get("a") == b"2"
    flaky.fault = Times("500:UnknownError", "PUT", 1000)
    with pytest.raises(StoreError, match="kept failing") as caught:
        store.put_if_absent("b", b"1")
    assert not isinstance(caught.value, Conflict)


@pytest.mark.parametrize("quotes", ["bare", "quoted", "either"])
def test_servers_that_differ_on_quotes_all_compare(flaky: FakeS3, store: ObjectStore, quotes: str) -> None:
    flaky.quotes = quotes
    store.put("a", b"1")
    tag = store.read("a")[1]
    assert '"' not in tag
    store.put_if_match("a", b"2", tag)
    with pytest.raises(Conflict):
        store.put_if_match("a", b"3", tag)
    assert store.get("a") == b"2"
    store.check()


def test_a_server_that_ignores_conditions_is_refused(flaky: FakeS3, store: ObjectStore) -> None:
    flaky.conditions = False
    with pytest.raises(StoreError, match="ignores the conditions"):
        store.check()
    assert not flaky.objects


def test_a_server_without_conditions_is_refused(flaky: FakeS3, store: ObjectStore) -> None:
    flaky.fault = Times("501:NotImplemented", "PUT", 9)
    with pytest.raises(StoreError, match="no conditional writes"):
        store.check()


def test_a_torn_download_goes_on_where_it_broke(flaky: FakeS3, store: ObjectStore, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(3_000_000)
    store.put("a", data)
    flaky.fault = Times("cut", "GET", 3)
    store.fetch("a", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert flaky.seen.count("GET p/a") == 4


def test_an_object_replaced_during_a_download_is_not_mixed(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = b"o" * 2_000_000, b"n" * 2_000_000
    store.put("a", old)

    def replaced(request: Request) -> str:
        gets = flaky.seen.count("GET p/a")
        if gets == 2:
            store_new = '"new"'
            flaky.objects["p/a"] = new, {"ETag": store_new}
        return "cut" if request.command == "GET" and gets == 1 else ""

    flaky.fault = replaced
    assert store.get("a") == new


def test_a_download_that_never_succeeds_leaves_nothing(flaky: FakeS3, store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"x" * 1000)
    flaky.fault = Times("cut", "GET", 1000)
    with pytest.raises(StoreError, match="broke off"):
        for _ in range(3):
            store.fetch("a", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_answer_to_a_completed_upload_is_no_loss(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "PART", 1000)
    data = random.Random(1).randbytes(4500)

    def lost(request: Request) -> str:
        completes = request.command == "POST" and "uploadId" in request.query
        return "lost" if completes and flaky.seen.count("POST p/a") == 2 else ""

    flaky.fault = lost
    store.put("a", data)
    assert store.get("a") == data and not flaky.uploads


@pytest.mark.parametrize("broken", ["part", "completion"])
def test_a_broken_upload_leaves_the_old_object_and_no_parts(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    store.put("a", b"old")
    monkeypatch.setattr(multipart, "PART", 1000)

    def fault(request: Request) -> str:
        part = request.query.get("partNumber") == "3" and broken == "part"
        completion = request.command == "POST" and "uploadId" in request.query and broken == "completion"
        return "503" if part or completion else ""

    flaky.fault = fault
    with pytest.raises(StoreError, match="too busy"):
        store.put("a", b"x" * 9000)
    assert store.get("a") == b"old" and not flaky.uploads


def test_a_local_file_that_shrinks_is_not_stored(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"x" * 3000)
    monkeypatch.setattr(multipart, "PART", 1000)

    def shrink(request: Request) -> str:
        path.write_bytes(b"x" * 1500)
        return ""

    flaky.fault = shrink
    with pytest.raises(StoreError, match="became shorter"):
        store.put("a", path)
    assert not flaky.objects and not flaky.uploads


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "ExpiredToken"])
def test_wrong_keys_are_denied_at_once_without_showing_them(flaky: FakeS3, store: ObjectStore, code: str) -> None:
    flaky.fault = Times(f"403:{code}", "", 1000)
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"), lambda: store.put("a", b""), lambda: list(store.list()), store.check,
        lambda: store.put_if_absent("a", b""), lambda: store.exists("a"), lambda: store.delete(["a"]),
    ]  # fmt: skip
    began = time.monotonic()
    for call in calls:
        with pytest.raises(PermissionDenied) as caught:
            call()
        assert "s3cr3t" not in str(caught.value) and "test-key" not in str(caught.value)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert time.monotonic() - began < 10


def test_a_missing_bucket_is_named(flaky: FakeS3) -> None:
    store = open_store("s3://not-made/p")
    for call in (store.check, lambda: store.put("a", b""), lambda: list(store.list()), lambda: store.get("a")):
        with pytest.raises(StoreError, match=r"s3://not-made/p: the bucket does not exist at 127.0.0.1:\d+"):
            call()


def test_nobody_at_the_endpoint_is_reported_soon(flaky: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:s3cr3t@127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(StoreError, match=f"127.0.0.1:{port} does not answer") as caught:
        open_store("s3://b/p").check()
    assert time.monotonic() - began < 10 and "s3cr3t" not in str(caught.value)


def test_a_web_server_that_is_no_s3_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        local_server(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreError, match="does not answer as an S3 server does"):
            open_store("s3://b/p").check()
        server.shutdown()


def test_no_keys_at_all_are_denied(flaky: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PermissionDenied, match="set AWS_ACCESS_KEY_ID"):
        open_store("s3://b/p").check()


def test_an_endpoint_that_is_no_url_is_reported(flaky: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(RequestError, match="AWS_ENDPOINT_URL is not a url"):
        open_store("s3://b/p").check()


def test_keys_of_other_tools_are_not_listed(flaky: FakeS3, store: ObjectStore) -> None:
    for key in ("p/", "p/folder/", "p/a", "p/x/../y", "p/x//y", "px/other"):
        flaky.objects[key] = b"", {"ETag": '"t"'}
    assert [stat.key for stat in store.list()] == ["a"]


def test_a_busy_server_is_waited_for_and_then_reported(flaky: FakeS3, store: ObjectStore) -> None:
    flaky.fault = Times("503:SlowDown", "PUT", 3)
    store.put("a", b"1")
    flaky.fault = Times("503:SlowDown", "PUT", 1000)
    with pytest.raises(StoreError, match="too busy"):
        store.put("a", b"2")
    assert store.get("a") == b"1"


def test_sweep_aborts_old_uploads_of_this_store_only(moto_url: str) -> None:
    client = boto3.session.Session().client("s3")
    _, _, bucket, prefix = moto_url.split("/")
    for key in (f"{prefix}/mine", f"{prefix}-other/theirs"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    client.put_object(Bucket=bucket, Key=f"{prefix}/.regraft-check-1", Body=b"")
    store = open_store(moto_url)
    assert store.sweep(1e10) == ()  # moto dates every upload 2010
    assert store.sweep(-10.0) in {("mine",), (".regraft-check-1", "mine")}
    left = [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]
    assert f"{prefix}/mine" not in left and f"{prefix}-other/theirs" in left


def test_under_random_faults_nothing_is_lost_or_wrong(
    flaky: FakeS3, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """5 % busy, 2 % reset, 2 % executed without a response, 7 % truncated: every saved checkpoint is valid."""
    monkeypatch.setattr(multipart, "PART", 4000)
    chance = random.Random(7)
    faults: Counter[str] = Counter()

    def fault(request: Request) -> str:
        drawn = chance.random()
        wrong = "503" if drawn < 0.05 else "reset" if drawn < 0.07 else "lost" if drawn < 0.09 else ""
        if not wrong and request.command == "GET" and drawn < 0.16:
            wrong = "cut"
        faults[wrong] += 1
        return wrong

    flaky.fault = fault
    checkpoints = Checkpoints(store, "run")
    saved, failed = {}, 0
    for step in range(60):
        body = chance.randbytes(chance.choice([10, 9000]))
        try:
            checkpoints.save(step, {"delta": body}, {})
            saved[step] = body
        except RegraftError:
            failed += 1
    found = {one.step: (checkpoints.open(one, tmp_path) / "delta").read_bytes() for one in checkpoints.listed()}
    assert saved == found and failed == 0
    assert min(faults[kind] for kind in ("503", "reset", "lost", "cut")) >= 3
    assert not flaky.uploads


def test_not_there_is_not_taken_for_an_empty_store(flaky: FakeS3, store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        store.get("a")
    flaky.fault = Times("503", "", 1000)
    with pytest.raises(StoreError):
        list(store.list())
    with pytest.raises(StoreError):
        store.exists("a")
