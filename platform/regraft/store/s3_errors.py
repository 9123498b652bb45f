"""Translation of S3 errors into regraft's errors, with a message for users that contains no key or secret."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from regraft.errors import NotFound, PermissionDenied, RegraftError, StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_WRONG_KEYS = {
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the server does not know the access key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "ExpiredToken": "the credentials have expired: get new ones",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine differs too much from the server's: set it",
}
_NOT_FOUND = {("NoSuchKey", "GetObject"), ("404", "GetObject"), ("404", "HeadObject")}
_FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_NO_S3 = "does not answer as an S3 server does: is AWS_ENDPOINT_URL right?"
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"}


def code_of(error: ClientError) -> str:
    """Return the server's error code, or the HTTP status for a response without a body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """Return the HTTP status of the response; 0 without one."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def retries_of(error: ClientError) -> int:
    """Return how often the request had been sent before the response that this error reports."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def raise_reason(error: ClientError, client: S3Client, bucket: str, name: str) -> None:
    """Raise the reason for a failed HEAD, whose answer has no body, as a listing of the same name reports it.

    A missing bucket or an expired key is then not taken for a missing object; for a missing object nothing is raised.
    """
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=name, MaxKeys=1)
    except ClientError as reason:
        if status_of(error) != 404 or code_of(reason) == "NoSuchBucket":
            raise reason from None


def translated(error: Exception, *, doing: str, url: str, endpoint: str) -> RegraftError:
    """Return the regraft error for a botocore error; `doing` is a phrase like "reading runs/a"."""
    if isinstance(error, ClientError):
        return _translated_response(error, doing, url, _host_of(endpoint))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError | ProfileNotFound):
        return PermissionDenied("no complete S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", url)
    if isinstance(error, ConnectionError | HTTPClientError):
        return StoreError(
            f"{doing}: {_host_of(endpoint)} does not answer: is it running, is AWS_ENDPOINT_URL right?", url
        )
    if isinstance(error, ResponseParserError):
        return StoreError(f"{doing}: {_host_of(endpoint)} {_NO_S3}", url)
    if isinstance(error, BotoCoreError):
        return StoreError(f"{doing}: {type(error).__name__}: {error}", url)
    return StoreError(f"{doing}: {type(error).__name__}", url)


def _translated_response(error: ClientError, doing: str, url: str, host: str) -> RegraftError:
    code = code_of(error)
    if code in _WRONG_KEYS:
        return PermissionDenied(f"{doing}: {_WRONG_KEYS[code]}", url)
    if (code, error.operation_name) in _NOT_FOUND:
        return NotFound(f"{doing}: it is not in the store", url)
    if code == "NoSuchBucket":
        return StoreError(f"the bucket does not exist at {host}: create it or correct the store's name", url)
    if code == "404":  # errors of S3 have a name: this is another web server
        return StoreError(f"{doing}: {host} {_NO_S3}", url)
    if code in _OTHER_REGION:
        return StoreError(f"{doing}: the bucket is in another region: set AWS_REGION", url)
    if code == "NotImplemented" or status_of(error) == 501:
        return StoreError(f"{doing}: {host} has no conditional writes (If-Match), without which no store is safe", url)
    if code in _FORBIDDEN or status_of(error) in (401, 403):
        return PermissionDenied(f"{doing}: these credentials have no permission for it ({code})", url)
    if code in _BUSY or status_of(error) >= 500:
        return StoreError(f"{doing}: {host} kept failing or was too busy ({code}): try again later", url)
    return StoreError(f"{doing}: {host} answered {code}: {error.response.get('Error', {}).get('Message', '')}", url)


def _host_of(endpoint: str) -> str:
    """Return host and port only: an endpoint may contain a password."""
    parts = urlsplit(endpoint)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname or 'the S3 server'}{port}"
