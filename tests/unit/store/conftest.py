"""Fixtures for stores of every kind: a folder, moto's S3, and a real S3 server if one is configured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from doubles.fake_s3 import FakeS3
from regraft.errors import RegraftError
from regraft.store.lease import Lease
from regraft.store.objects import ObjectStore, open_store
from support.local_s3 import local_server

REAL = os.environ.get("REGRAFT_TEST_S3", "")
BUCKET = "tests"


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = boto3.session.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    keys.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield endpoint
    server.stop()


@pytest.fixture
def moto_url(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A unique prefix on moto's server."""
    local_server(monkeypatch, moto_endpoint)
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def real_url() -> str:
    """A unique prefix on the server that REGRAFT_TEST_S3 names (credentials and endpoint from AWS_*)."""
    return f"{REAL.rstrip('/')}/{uuid4().hex}"


@contextmanager
def root_on(server: str, request: pytest.FixtureRequest, name: str) -> Iterator[str]:
    """A unique URL on moto's server or on the `real` one; everything below it is deleted at the end."""
    with pytest.MonkeyPatch.context() as environment:
        bucket = REAL.rstrip("/")
        if server == "moto":
            local_server(environment, request.getfixturevalue("moto_endpoint"))
            bucket = f"s3://{BUCKET}"
        root = f"{bucket}/{name}-{uuid4().hex}"
        yield root
        everything = open_store(root)
        everything.delete([stat.key for stat in everything.list()])


@pytest.fixture(scope="session")
def small_server() -> Iterator[FakeS3]:
    with FakeS3() as server:
        yield server


@pytest.fixture
def small_url(small_server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A unique prefix on a small S3 server without faults, four times as fast as moto's."""
    local_server(monkeypatch, small_server.endpoint)
    yield f"s3://b/{uuid4().hex}"
    small_server.objects.clear()


@pytest.fixture(params=["folder", "small", *(["real"] if REAL else [])])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind; test_objects.py, which compares the kinds, adds moto's."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def store(url: str) -> Iterator[ObjectStore]:
    store = open_store(url)
    yield store
    if REAL and url.startswith(REAL):
        store.delete([stat.key for stat in store.list()])


@pytest.fixture
def folder(tmp_path: Path) -> ObjectStore:
    """An empty folder store, for tests that do not depend on the kind of store."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """A small S3 server with configurable faults; retries do not wait."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.001)
    with FakeS3() as server:
        local_server(monkeypatch, server.endpoint)
        yield server


@pytest.fixture
def take() -> Iterator[Callable[[Lease], Lease]]:
    """Takes a lease that the test leaves behind; its heartbeat ends with the test, or it would warn in later ones."""
    taken: list[Lease] = []

    def acquire(lease: Lease) -> Lease:
        taken.append(lease)
        return lease.acquire()

    yield acquire
    for lease in taken:
        with suppress(RegraftError):
            lease.release()
