"""How does a bucket keep the promise of a store? By conditional writes, on AWS and on the servers that imitate it."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from uuid import uuid4

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from regraft.errors import Conflict, NotFound, RequestError, StoreError
from regraft.store import multipart
from regraft.store.atomic_files import fresh_file, writing_here
from regraft.store.objects import PROBE, Body, ObjectStore, Stat, checked, listable, size_of
from regraft.store.s3_errors import code_of, retries_of, status_of, told

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PATIENT = 8
"""Where a tenth of all requests fails, one in a hundred million fails so often in a row."""
_QUICK = 3
_TRIES = 6
_PIECE = 1 << 20
_PAGE = 1000
_MOST_CLIENTS = 4
_UNDECIDED = {409, 500}
"""Answers to conditional writes that met: AWS says 409, Ceph 500; the write may be sent again."""
_CONNECT_S = 10
_READ_S = 60
_CARELESS = (
    "the server does not keep to the conditions of conditional writes, so two writers could overwrite one another: "
    "turn off the bucket's versioning (with which Ceph ignores them) or use another bucket"
)

_Tags = list[str]  # inside the class, `list` is the method


class _Torn(Exception):
    """A download broke off, or the object changed between two pieces of it."""


class _Refused(Exception):
    """A conditional write was refused; `args[0]` says whether it may have been our own repeated request."""


class S3Store(ObjectStore):
    """A store below a prefix of a bucket. Server and keys come from the environment, as boto3 reads it.

    Nothing is asked of the server before the first request.
    """

    def __init__(self, bucket: str, prefix: str = "", attempts: int = _PATIENT) -> None:
        if not bucket:
            raise RequestError("s3:// lacks its bucket: write s3://bucket/prefix")
        self._bucket = bucket
        self._prefix = checked(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._attempts = attempts
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> bytes:
        return self.read(key)[0]

    def start(self, key: str, size: int) -> tuple[bytes, int]:
        name = self._name(key)
        with self._asking(f"reading {key}") as client:
            try:
                answer = client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes=0-{size - 1}")
            except ClientError as error:
                if status_of(error) != 416:  # an empty object has no first byte
                    raise
                return b"", 0
            with suppress(BotoCoreError):
                found = answer["Body"].read()
                total = answer.get("ContentRange", "").rpartition("/")[2]
                if len(found) == answer["ContentLength"] and (total.isdecimal() or "ContentRange" not in answer):
                    return found[:size], int(total or len(found))
        return super().start(key, size)  # broken off: the way that goes on where it was

    def read(self, key: str) -> tuple[bytes, str]:
        sink = io.BytesIO()
        tag = self._download(key, sink)
        return sink.getvalue(), tag

    def fetch(self, key: str, path: Path) -> None:
        with writing_here(path), fresh_file(path) as (file, temporary), os.fdopen(os.dup(file), "wb") as sink:
            self._download(key, sink)
            sink.flush()
            os.replace(temporary, path)

    def put(self, key: str, body: Body) -> None:
        name = self._name(key)
        with self._asking(f"writing {key}") as client:
            if size_of(body) > multipart.PART:
                multipart.upload(client, self._bucket, name, body)
                return
            data = _whole(body)
            client.put_object(Bucket=self._bucket, Key=name, Body=data, ContentMD5=multipart.digest(data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        name = self._name(key)
        with self._asking(f"writing {key}") as client:
            try:
                self._conditional(partial(client.put_object, Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*"))
            except _Refused as refused:
                if not (refused.args[0] and self._holds(key, data)):
                    raise Conflict(f"{key} exists already", self.url) from None

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        name = self._name(key)
        with self._asking(f"writing {key}") as client:
            put = partial(client.put_object, Bucket=self._bucket, Key=name, Body=data)
            try:
                try:
                    self._conditional(partial(put, IfMatch=tag))
                except _Refused:
                    # Servers differ on quotes: Ceph wants none, others insist. Only an unchanged object is asked again.
                    if self._tag(key) != tag:
                        raise
                    self._conditional(partial(put, IfMatch=f'"{tag}"'))
            except _Refused as refused:
                if not (refused.args[0] and self._holds(key, data)):
                    raise Conflict(f"{key} was changed by somebody else or is gone", self.url) from None

    def list(self, prefix: str = "") -> Iterator[Stat]:
        with self._asking(f"listing {prefix or 'the store'}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": _PAGE}
            )
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefix)
                    if listable(key):
                        yield Stat(key, item["Size"], item["LastModified"].timestamp(), item["ETag"].strip('"'))

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._name(key) for key in keys]
        if len(names) < 3:
            for name in names:
                self._delete(name)
            return
        # One by one: the request for many wants a checksum that servers disagree about.
        with ThreadPoolExecutor(8, thread_name_prefix="regraft-delete") as pool:
            for _ in pool.map(self._delete, names):
                pass

    def exists(self, key: str) -> bool:
        return self._tag(key) is not None

    def check(self) -> None:
        # A wrong address is to be told soon; a server that answers, and is busy, is worth the patience of any request.
        next(S3Store(self._bucket, self._prefix, _QUICK).list(), None)
        self._round_trip(PROBE + uuid4().hex)

    def local(self, key: str) -> Path | None:
        return None

    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        before = time.time() - older_than_s
        gone = []
        with self._asking("sweeping") as client:
            for page in client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for begun in page.get("Uploads", []):
                    if begun["Initiated"].timestamp() < before:
                        with suppress(client.exceptions.NoSuchUpload):  # completed meanwhile
                            client.abort_multipart_upload(
                                Bucket=self._bucket, Key=begun["Key"], UploadId=begun["UploadId"]
                            )
                        gone.append(begun["Key"].removeprefix(self._prefix))
            probes = client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + PROBE).get("Contents", [])
            for item in probes:
                if item["LastModified"].timestamp() < before:
                    client.delete_object(Bucket=self._bucket, Key=item["Key"])
                    gone.append(item["Key"].removeprefix(self._prefix))
        return tuple(sorted(gone))

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    @contextmanager
    def _asking(self, doing: str) -> Iterator[S3Client]:
        endpoint = ""
        try:
            client = _client(self._attempts)
            endpoint = client.meta.endpoint_url
            yield client
        except (ClientError, BotoCoreError) as error:
            raise told(error, doing=doing, url=self.url, endpoint=endpoint) from error

    def _download(self, key: str, sink: BinaryIO) -> str:
        """Write the object into `sink`, going on where a broken connection left off; its tag."""
        tags: _Tags = []
        tries = Retrying(
            retry=retry_if_exception_type(_Torn),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        try:
            tries(self._continue, key, sink, tags)
        except _Torn as error:
            raise StoreError(f"reading {key} broke off {_TRIES} times", self.url) from error
        return tags[-1].strip('"')

    def _continue(self, key: str, sink: BinaryIO, tags: _Tags) -> None:
        done = sink.tell()
        name = self._name(key)
        with self._asking(f"reading {key}") as client:
            if done:
                answer = client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes={done}-")
            else:
                answer = client.get_object(Bucket=self._bucket, Key=name)
        if done and (answer["ETag"] != tags[-1] or "ContentRange" not in answer):
            sink.seek(0)
            sink.truncate()
            raise _Torn
        tags.append(answer["ETag"])
        try:
            for piece in answer["Body"].iter_chunks(_PIECE):
                sink.write(piece)
        except BotoCoreError as error:
            raise _Torn from error
        if sink.tell() != done + answer["ContentLength"]:
            raise _Torn

    def _conditional(self, put: Callable[[], object]) -> None:
        """Send a conditional write; _Refused when the condition does not hold."""
        for again in range(_TRIES):
            try:
                put()
                return
            except ClientError as error:
                if status_of(error) == 412 or code_of(error) == "NoSuchKey":
                    raise _Refused(again > 0 or retries_of(error) > 0) from error
                if status_of(error) not in _UNDECIDED or (status_of(error) == 500 and again == _TRIES - 1):
                    raise
            time.sleep(random.uniform(0.02, 0.1) * 2**again)
        raise _Refused(True)

    def _holds(self, key: str, data: bytes) -> bool:
        """Whether the object is what we sent: a repeated request is refused by its own first success.

        Safe because what is written conditionally holds a unique id: nobody else writes the same bytes.
        """
        with suppress(NotFound):
            return self.get(key) == data
        return False

    def _tag(self, key: str) -> str | None:
        name = self._name(key)
        with self._asking(f"looking for {key}") as client:
            try:
                return client.head_object(Bucket=self._bucket, Key=name)["ETag"].strip('"')
            except ClientError as error:
                if status_of(error) != 404:
                    raise
        return None

    def _delete(self, name: str) -> None:
        with self._asking("deleting") as client:
            try:
                client.delete_object(Bucket=self._bucket, Key=name)
            except ClientError as error:
                if code_of(error) != "NoSuchKey":
                    raise

    def _round_trip(self, key: str) -> None:
        first, second, third = (uuid4().hex.encode() for _ in range(3))
        self.put_if_absent(key, first)
        try:
            tag = self.read(key)[1]
            with suppress(Conflict):
                self.put_if_match(key, second, tag)
            for write in (partial(self.put_if_absent, key, third), partial(self.put_if_match, key, third, tag)):
                with suppress(Conflict):
                    write()
            if self.get(key) != second:
                raise StoreError(_CARELESS, self.url)
        finally:
            self.delete([key])


def _client(attempts: int) -> S3Client:
    """Made at the first request and shared by all stores and threads of the process."""
    key = (attempts, *sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _clients.lock:
        if key not in _clients.made:
            _clients.made = {key: _connect(attempts), **dict(list(_clients.made.items())[: _MOST_CLIENTS - 1])}
        return _clients.made[key]


def _connect(attempts: int) -> S3Client:
    """`when_required`: older servers refuse or ignore the checksums that boto3 would add by itself."""
    config = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=_CONNECT_S,
        read_timeout=_READ_S,
        max_pool_connections=32,
    )
    session = botocore.session.Session()
    session.register_component("data_loader", _clients.loader)
    try:
        return cast("S3Client", session.create_client("s3", config=config))
    except ValueError as error:
        raise RequestError("AWS_ENDPOINT_URL is not a url: write http://host:port or https://host") from error


class _Clients:
    """The clients of this process, by the environment that they were made in.

    One loader for all of them: reading the service's description is nine tenths of what making a client costs.
    """

    def __init__(self) -> None:
        self.loader = botocore.loaders.create_loader()
        self.forget()

    def forget(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[tuple[object, ...], S3Client] = {}


_clients = _Clients()
# A connection must not cross a fork: two processes would read one another's answers.
os.register_at_fork(after_in_child=_clients.forget)


def _whole(body: Body) -> bytes:
    if isinstance(body, Path):
        try:
            return body.read_bytes()
        except OSError as error:
            raise StoreError(f"the local file to be stored cannot be read ({error.strerror})", str(body)) from error
    return bytes(body)
