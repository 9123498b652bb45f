"""Multipart uploads of large bodies to S3: parts, one completing request, and no parts left behind on failure."""

from __future__ import annotations

import hashlib
import logging
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
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
"""Size in bytes up to which a body is sent in one request, and of a part (S3 requires at least 5 MiB)."""

_MAX_PARTS = 9_000
_AT_ONCE = 4
_MARK = "regraft-upload"

_Piece = tuple[int, int, int]
"""Number (from 1), start and size in bytes of a part."""

_log = logging.getLogger(__name__)


def digest(data: bytes) -> str:
    """Return the Content-MD5 header: the only checksum that every S3 server verifies against the received bytes."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def upload(client: S3Client, bucket: str, key: str, body: Body) -> None:
    """Write `body` to `key` by a multipart upload, aborted on any failure; at most four parts are in memory."""
    mark = uuid4().hex
    pieces = list(_pieces(size_of(body)))
    begun = client.create_multipart_upload(Bucket=bucket, Key=key, Metadata={_MARK: mark})
    target = _Upload(client, bucket, key, begun["UploadId"], mark)
    try:
        target.complete(target.send(body, pieces))
    except BaseException:
        target.abort()
        raise


@dataclass(frozen=True)
class _Upload:
    """A begun multipart upload."""

    client: S3Client
    bucket: str
    key: str
    id: str
    mark: str
    """Unique metadata of the object that this upload creates."""

    def send(self, body: Body, pieces: list[_Piece]) -> list[CompletedPartTypeDef]:
        """Send all parts, four at a time."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="regraft-upload") as pool:
            waiting = [pool.submit(self._send_part, body, piece) for piece in pieces]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def complete(self, parts: list[CompletedPartTypeDef]) -> None:
        """Create the object from its parts."""
        try:
            self.client.complete_multipart_upload(
                Bucket=self.bucket, Key=self.key, UploadId=self.id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            # A completion whose response was lost fails when it is repeated (404); the mark shows that it succeeded.
            if status_of(error) != 404 or not self._created():
                raise

    def abort(self) -> None:
        """Delete the parts."""
        with suppress(ClientError, BotoCoreError):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=self.id)
            return
        _log.warning("parts of a failed upload of %s stay in the bucket until the next sweep", self.key)

    def _send_part(self, body: Body, piece: _Piece) -> CompletedPartTypeDef:
        number, start, size = piece
        data = _read_piece(body, start, size)
        response = self.client.upload_part(
            Bucket=self.bucket,
            Key=self.key,
            UploadId=self.id,
            PartNumber=number,
            Body=data,
            ContentMD5=digest(data),
        )
        return {"PartNumber": number, "ETag": response["ETag"]}

    def _created(self) -> bool:
        try:
            return self.client.head_object(Bucket=self.bucket, Key=self.key)["Metadata"].get(_MARK) == self.mark
        except ClientError:
            return False


def _pieces(size: int) -> Iterator[_Piece]:
    step = max(PART, -(-size // _MAX_PARTS))
    for number, start in enumerate(range(0, size, step), 1):
        yield number, start, min(step, size - start)


def _read_piece(body: Body, start: int, size: int) -> bytes:
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
