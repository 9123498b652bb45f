"""How does a large body reach S3 whole? In parts, by one final request, and with no parts left behind."""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from regraft.errors import StoreError
from regraft.store.objects import Body, size_of
from regraft.store.s3_errors import status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART = 16 << 20
"""Bytes below which a body goes in one request; also the size of a part (S3 wants at least 5 MiB)."""

_MOST_PARTS = 9_000
_AT_ONCE = 4
_MARK = "regraft-upload"

_Piece = tuple[int, int, int]
"""Number (from 1), start and size in bytes of a part."""

_log = logging.getLogger(__name__)


def digest(data: bytes) -> str:
    """The Content-MD5 header: the one checksum every S3 server verifies, so a byte lost on the way is refused."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def upload(client: S3Client, bucket: str, key: str, body: Body) -> None:
    """Put `body` at `key` by a multipart upload; at most four parts are in memory. Aborted when anything fails."""
    mark = uuid4().hex
    pieces = list(_pieces(size_of(body)))
    begun = client.create_multipart_upload(Bucket=bucket, Key=key, Metadata={_MARK: mark})
    upload_id = begun["UploadId"]
    try:
        parts = _send(client, bucket, key, upload_id, body, pieces)
        _complete(client, bucket, key, upload_id, parts, mark)
    except BaseException:
        _abort(client, bucket, key, upload_id)
        raise


def _send(
    client: S3Client, bucket: str, key: str, upload_id: str, body: Body, pieces: list[_Piece]
) -> list[CompletedPartTypeDef]:
    def send(piece: _Piece) -> CompletedPartTypeDef:
        number, start, size = piece
        data = _piece(body, start, size)
        answer = client.upload_part(
            Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data, ContentMD5=digest(data)
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="regraft-upload") as pool:
        waiting = [pool.submit(send, piece) for piece in pieces]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _pieces(size: int) -> Iterator[_Piece]:
    step = max(PART, -(-size // _MOST_PARTS))
    for number, start in enumerate(range(0, size, step), 1):
        yield number, start, min(step, size - start)


def _piece(body: Body, start: int, size: int) -> bytes:
    if not isinstance(body, Path):
        return bytes(memoryview(body).cast("B")[start : start + size])
    try:
        with body.open("rb") as file:
            file.seek(start)
            data = file.read(size)
    except OSError as error:
        raise StoreError(f"the local file to be stored cannot be read ({error.strerror})", str(body)) from error
    if len(data) != size:
        raise StoreError("the local file became shorter while it was being stored", str(body))
    return data


def _complete(
    client: S3Client, bucket: str, key: str, upload_id: str, parts: list[CompletedPartTypeDef], mark: str
) -> None:
    try:
        client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})
    except ClientError as error:
        # A completion whose answer was lost is refused when repeated (404): the object itself says whether it is ours.
        if status_of(error) != 404 or not _ours(client, bucket, key, mark):
            raise


def _ours(client: S3Client, bucket: str, key: str, mark: str) -> bool:
    try:
        return client.head_object(Bucket=bucket, Key=key)["Metadata"].get(_MARK) == mark
    except ClientError:
        return False


def _abort(client: S3Client, bucket: str, key: str, upload_id: str) -> None:
    with suppress(ClientError, BotoCoreError):
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        return
    _log.warning("parts of a broken upload of %s stay in the bucket until the next sweep", key)
