"""The store in a bucket: conditional writes, on AWS S3 and on compatible servers."""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
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
from regraft.store.atomic_files import temporary_file, writing_locally
from regraft.store.mark import ObjectMark
from regraft.store.objects import MARK, PROBE, Body, ObjectStore, Stat, checked, chunks, is_listable, size_of
from regraft.store.s3_errors import code_of, raise_reason, retries_of, status_of, translated
from regraft.store.size_bound import refuse_large

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PATIENT = 8
"""Attempts of a request: if a tenth of all requests fail, one in a hundred million fails so often in a row."""
_QUICK = 3
_TRIES = 6
_PIECE = 1 << 20
_PAGE = 1000
_MAX_CLIENTS = 4
_UNDECIDED = {409, 500}
"""Responses to concurrent conditional writes (409 on AWS, 500 on Ceph), after which the write may be repeated."""
_CONNECT_S = 10
_READ_S = 60
_IGNORES_CONDITIONS = (
    "the server ignores the conditions of conditional writes, so two writers could overwrite each other: "
    "turn off the bucket's versioning (with which Ceph ignores them) or use another bucket"
)

_Tags = list[str]  # inside the class, `list` is the method


class _BrokenDownload(Exception):
    """A download was interrupted, or the object changed during it."""


class _ConditionFailed(Exception):
    """The condition of a write did not hold; `args[0]`: an earlier attempt of the same write may be the reason."""


class S3Store(ObjectStore):
    """A store below a prefix of a bucket. Server and credentials come from the environment, as in boto3.

    Creating a store sends no request.
    """

    def __init__(self, bucket: str, prefix: str = "", attempts: int = _PATIENT) -> None:
        if not bucket:
            raise RequestError("s3:// lacks its bucket: write s3://bucket/prefix")
        self._bucket = bucket
        self._prefix = checked(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._attempts = attempts
        self.url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._mark = ObjectMark(self.url, partial(self.get, MARK), partial(self._put_if_absent, MARK))

    def begin(self) -> None:
        self._mark.begin()

    def expect(self) -> None:
        self._mark.expect()

    def hold(self) -> None:
        self._mark.see()

    def verify(self) -> None:
        self._mark.verify(now=True)

    def get(self, key: str) -> bytes:
        return self.read(key)[0]

    def read_start(self, key: str, size: int) -> tuple[bytes, int]:
        name = self._name(key)
        with self._mark.explain_missing(key), self._client_for(f"reading {key}") as client:
            try:
                response = client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes=0-{size - 1}")
            except ClientError as error:
                if status_of(error) != 416:  # an empty object has no first byte
                    raise
                return b"", 0
            with suppress(BotoCoreError):
                found = response["Body"].read()
                total = response.get("ContentRange", "").rpartition("/")[2]
                if len(found) == response["ContentLength"] and (total.isdecimal() or "ContentRange" not in response):
                    return found[:size], int(total or len(found))
        return super().read_start(key, size)  # interrupted: `read` resumes where the connection broke

    def read(self, key: str, most: int | None = None) -> tuple[bytes, str]:
        sink = io.BytesIO()
        with self._mark.explain_missing(key):
            tag = self._download(key, sink, most)
        return sink.getvalue(), tag

    def tag(self, key: str) -> str:
        with self._mark.explain_missing(key):
            if (found := self._tag(key, explained=True)) is None:
                raise NotFound(f"{key} does not exist", self.url)
            return found

    def fetch(self, key: str, path: Path) -> None:
        with writing_locally(path), temporary_file(path) as (file, temporary), os.fdopen(os.dup(file), "wb") as sink:
            with self._mark.explain_missing(key):
                self._download(key, sink)
            sink.flush()
            os.replace(temporary, path)

    def put(self, key: str, body: Body) -> None:
        self._mark.before_write()
        name = self._name(key)
        with self._client_for(f"writing {key}") as client:
            if size_of(body) > multipart.PART:
                multipart.upload(client, self._bucket, name, body)
                return
            data = b"".join(chunks(body, multipart.PART))
            client.put_object(Bucket=self._bucket, Key=name, Body=data, ContentMD5=multipart.digest(data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        self._mark.before_write()
        self._put_if_absent(key, data)

    def _put_if_absent(self, key: str, data: bytes) -> None:
        name = self._name(key)
        with self._client_for(f"writing {key}") as client:
            try:
                self._conditional(partial(client.put_object, Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*"))
            except _ConditionFailed as refused:
                if not (refused.args[0] and self._is_ours(key, data)):
                    raise Conflict(f"{key} exists already", self.url) from None

    def put_if_match(self, key: str, data: bytes, tag: str) -> None:
        self._mark.before_write()
        name = self._name(key)
        with self._client_for(f"writing {key}") as client:
            put = partial(client.put_object, Bucket=self._bucket, Key=name, Body=data)
            try:
                try:
                    self._conditional(partial(put, IfMatch=tag))
                except _ConditionFailed:
                    # Ceph requires the tag without quotes, others with them; only an unchanged object is written.
                    if self._tag(key) != tag:
                        raise
                    self._conditional(partial(put, IfMatch=f'"{tag}"'))
            except _ConditionFailed as refused:
                if not (refused.args[0] and self._is_ours(key, data)):
                    raise Conflict(f"{key} was changed by another process or deleted", self.url) from None

    def list(self, prefix: str = "") -> Iterator[Stat]:
        with self._client_for(f"listing {prefix or 'the store'}") as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": _PAGE}
            )
            empty = True
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"].removeprefix(self._prefix)
                    if is_listable(key):
                        empty = False
                        yield Stat(key, item["Size"], item["LastModified"].timestamp(), item["ETag"].strip('"'))
        if empty:
            self._mark.verify(now=True)

    def delete(self, keys: Iterable[str]) -> None:
        self._mark.before_write()
        names = [self._name(key) for key in keys]
        if len(names) < 3:
            for name in names:
                self._delete(name)
            return
        # One by one: servers disagree about the checksum that a request for many keys requires.
        with ThreadPoolExecutor(8, thread_name_prefix="regraft-delete") as pool:
            for _ in pool.map(self._delete, names):
                pass

    def exists(self, key: str) -> bool:
        found = self._tag(key) is not None
        if not found:
            self._mark.verify()
        return found

    def check(self) -> None:
        # Few attempts for the first request report a wrong address soon; a busy server gets the usual ones after it.
        next(S3Store(self._bucket, self._prefix, _QUICK).list(), None)
        self._round_trip(PROBE + uuid4().hex)

    def local(self, key: str) -> Path | None:
        return None

    def now(self) -> float:
        began, counted = time.time(), time.monotonic()
        with self._client_for("asking for the time") as client:
            listed = client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        headers = listed["ResponseMetadata"]["HTTPHeaders"]
        if not (date := headers.get("date")):
            return super().now()
        told = parsedate_to_datetime(date).timestamp()
        # Whole seconds; a clock that agrees is as good, and tells parts of them. It is read once, as it may jump.
        now = began + time.monotonic() - counted
        return now if told <= now and began < told + 1 else told

    def sweep(self, older_than_s: float) -> tuple[str, ...]:
        before = self.now() - older_than_s
        with self._client_for("sweeping") as client:
            removed = [*self._sweep_uploads(client, before), *self._sweep_probes(client, before)]
        return tuple(sorted(name.removeprefix(self._prefix) for name in removed))

    def _sweep_uploads(self, client: S3Client, before: float) -> Iterator[str]:
        """Abort multipart uploads begun before then; yield their names."""
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
        for begun in (upload for page in pages for upload in page.get("Uploads", [])):
            if begun["Initiated"].timestamp() < before:
                with suppress(client.exceptions.NoSuchUpload):  # completed at the same time
                    client.abort_multipart_upload(Bucket=self._bucket, Key=begun["Key"], UploadId=begun["UploadId"])
                yield begun["Key"]

    def _sweep_probes(self, client: S3Client, before: float) -> Iterator[str]:
        """Delete probe objects written before then; yield their names."""
        probes = client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + PROBE).get("Contents", [])
        for item in probes:
            if item["LastModified"].timestamp() < before:
                client.delete_object(Bucket=self._bucket, Key=item["Key"])
                yield item["Key"]

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    @contextmanager
    def _client_for(self, doing: str) -> Iterator[S3Client]:
        """Yield the client and translate its errors; `doing` is a phrase for messages, like "reading runs/a"."""
        endpoint = ""
        try:
            client = _client(self._attempts)
            endpoint = client.meta.endpoint_url
            yield client
        except (ClientError, BotoCoreError) as error:
            raise translated(error, doing=doing, url=self.url, endpoint=endpoint) from error

    def _download(self, key: str, sink: BinaryIO, most: int | None = None) -> str:
        """Write the object into `sink`, resuming after a broken connection; return its tag."""
        tags: _Tags = []
        tries = Retrying(
            retry=retry_if_exception_type(_BrokenDownload),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        try:
            tries(self._resume, key, sink, tags=tags, most=most)
        except _BrokenDownload as error:
            raise StoreError(f"reading {key} broke off {_TRIES} times", self.url) from error
        return tags[-1].strip('"')

    def _resume(self, key: str, sink: BinaryIO, *, tags: _Tags, most: int | None) -> None:
        done = sink.tell()
        name = self._name(key)
        with self._client_for(f"reading {key}") as client:
            if done:
                response = client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes={done}-")
            else:
                response = client.get_object(Bucket=self._bucket, Key=name)
        if done and (response["ETag"] != tags[-1] or "ContentRange" not in response):
            sink.seek(0)
            sink.truncate()
            raise _BrokenDownload
        tags.append(response["ETag"])
        refuse_large(done + response["ContentLength"], most, f"{self.url}/{key}", response["Body"].close)
        try:
            for piece in response["Body"].iter_chunks(_PIECE):
                sink.write(piece)
        except BotoCoreError as error:
            raise _BrokenDownload from error
        if sink.tell() != done + response["ContentLength"]:
            raise _BrokenDownload

    def _conditional(self, put: Callable[[], object]) -> None:
        """Send a conditional write. Raises _ConditionFailed if the condition does not hold."""
        for attempt in range(_TRIES):
            try:
                put()
                return
            except ClientError as error:
                if status_of(error) == 412 or code_of(error) == "NoSuchKey":
                    raise _ConditionFailed(attempt > 0 or retries_of(error) > 0) from error
                if status_of(error) not in _UNDECIDED or (status_of(error) == 500 and attempt == _TRIES - 1):
                    raise
            time.sleep(random.uniform(0.02, 0.1) * 2**attempt)
        raise _ConditionFailed(True)

    def _is_ours(self, key: str, data: bytes) -> bool:
        """Return whether the object has our bytes: a repeated write fails if its first attempt succeeded.

        Reliable because conditional writes contain a unique id, so that no other writer has the same bytes.
        """
        with suppress(NotFound):
            return self.get(key) == data
        return False

    def _tag(self, key: str, *, explained: bool = False) -> str | None:
        """Return an object's tag; `explained`: another request asks for the reason where the answer has none."""
        name = self._name(key)
        with self._client_for(f"looking for {key}") as client:
            try:
                return client.head_object(Bucket=self._bucket, Key=name)["ETag"].strip('"')
            except ClientError as error:
                if explained:
                    raise_reason(error, client, self._bucket, name)
                if status_of(error) != 404:
                    raise
        return None

    def _delete(self, name: str) -> None:
        with self._client_for("deleting") as client:
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
                raise StoreError(_IGNORES_CONDITIONS, self.url)
        finally:
            self.delete([key])


def _client(attempts: int) -> S3Client:
    """Return the client, created at the first request and shared by all stores and threads of the process."""
    key = (attempts, *sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _clients.lock:
        if key not in _clients.made:
            _clients.made = {key: _connect(attempts), **dict(list(_clients.made.items())[: _MAX_CLIENTS - 1])}
        return _clients.made[key]


def _connect(attempts: int) -> S3Client:
    """Create a client. `when_required`: older servers reject or ignore the checksums that boto3 adds by default."""
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
    """The clients of this process, by the environment that they were created in.

    They share one loader: reading the service's description takes nine tenths of the time to create a client.
    """

    def __init__(self) -> None:
        self.loader = botocore.loaders.create_loader()
        self.forget()

    def forget(self) -> None:
        """Drop all clients."""
        self.lock = threading.Lock()
        self.made: dict[tuple[object, ...], S3Client] = {}


_clients = _Clients()
# A connection must not be used after a fork: both processes would read each other's responses.
os.register_at_fork(after_in_child=_clients.forget)
