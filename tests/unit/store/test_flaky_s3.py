"""Two hundred checkpoints over a network on which a tenth of all requests fail, during a training."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from doubles.fake_proxy import FakeProxy
from regraft.cli import gc, main
from regraft.store import multipart, s3
from regraft.store.checkpoints import Checkpoints
from regraft.store.objects import open_store
from regraft.store.registry import Registry
from support.local_s3 import local_server
from support.processes import in_child, train_counted
from support.tiny import document
from unit.store.conftest import REAL

pytestmark = pytest.mark.timeout(1200)
COUNT = 200
PART = 5 << 20
"""The smallest part that a real server accepts."""


@pytest.fixture(params=["real" if REAL else "moto"])
def flaky_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeProxy, str]]:
    """A unique prefix behind a flaky proxy for the server that REGRAFT_TEST_S3 names, or else moto's."""
    if request.param == "moto":
        upstream, root = request.getfixturevalue("moto_endpoint"), f"s3://tests/{uuid4().hex}"
        local_server(monkeypatch, upstream)
    else:
        upstream = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ["AWS_ENDPOINT_URL"]
        root = f"{REAL.rstrip('/')}/{uuid4().hex}"
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setattr(s3, "_READ_S", 2)
    monkeypatch.setattr(multipart, "PART", PART)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.02)
    with FakeProxy(upstream, seed=5, patience_s=2.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy, root


def contents(number: int) -> dict[str, bytes]:
    """Return the files of a checkpoint; every twentieth has one that is uploaded in three parts."""
    size = 2 * PART + 1000 if number % 20 == 0 else 20_000
    return {"delta": random.Random(number).randbytes(size), "state.json": json.dumps({"step": number}).encode()}


@pytest.mark.slow
def test_two_hundred_checkpoints_on_a_bad_network_are_all_there_and_right_and_training_goes_on(
    flaky_place: tuple[FakeProxy, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy, root = flaky_place
    local = document(tmp_path, checkpoint_steps=1, keep=2)
    assert in_child(train_counted, local, str(tmp_path / "straight")) == 0
    there = {**local, "store": f"{root}/store"}
    checkpoints = Checkpoints(open_store(there["store"]), "many")
    with ThreadPoolExecutor(5) as pool:
        training = pool.submit(in_child, train_counted, there, str(tmp_path / "journal"), timeout=900)
        saved = list(pool.map(lambda number: checkpoints.save(number, contents(number), {}), range(COUNT)))
        assert training.result() == 0
    went_wrong = sum(proxy.seen[fault] for fault in ("503", "timeout", "reset", "cut", "lost"))
    assert went_wrong > 0.05 * proxy.seen["requests"] and min(proxy.seen.values()) > 0
    proxy.healthy = True
    found = {one.step: one for one in checkpoints.listed()}
    assert sorted(found) == list(range(COUNT)) and {one.id for one in saved} == {one.id for one in found.values()}
    proxy.healthy = False
    for number, one in found.items():
        folder = checkpoints.open(one, tmp_path / "look")
        assert {name: (folder / name).read_bytes() for name in contents(number)} == contents(number)
    assert delta(there["store"]) == delta(local["store"])
    nothing_unfinished_is_left(root, proxy, capsys)


def delta(store: str) -> str:
    opened = open_store(store)
    return hashlib.sha256(opened.get(f"{Registry(opened).version('tiny').prefix}delta.safetensors")).hexdigest()


def nothing_unfinished_is_left(root: str, proxy: FakeProxy, capsys: pytest.CaptureFixture[str]) -> None:
    """Return the rest after `regraft gc` over the same network, with one upload that was begun and never completed."""
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3", endpoint_url=proxy.upstream.geturl())
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/store/runs/many/checkpoints/1-abc/delta")
    with pytest.MonkeyPatch.context() as now:
        now.setattr(gc, "_DAY_S", -60.0)
        assert main(["gc", "--store", f"{root}/store", "--json"]) == 0, capsys.readouterr()
    assert not client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads")
