"""HTTP errors: a status, a kind, and a message with the reason and what to do; never a traceback."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from regraft.errors import (
    BaseError,
    Damaged,
    DataError,
    NotFound,
    NotNow,
    RegraftError,
    RequestError,
    StoreError,
    UnknownPlugin,
    Unsupported,
)

STATUS: tuple[tuple[type[RegraftError], int], ...] = (
    (NotFound, 404),
    (NotNow, 503),
    (Damaged, 409),
    (BaseError, 424),
    (UnknownPlugin, 424),
    (Unsupported, 422),
    (DataError, 422),
    (StoreError, 503),
    (RequestError, 422),
)
"""Status by class of error; the first match counts."""
RETRY_S = 1.0
UNREACHABLE = "the store cannot be read now: try again; the server's log has the details"
"""The message for errors of the store, whose own ones name the host that holds it."""
CLOSING = {408, 413}
"""Statuses after which the rest of a body may still arrive: the connection is closed."""
_PLACES = ("row ", "input ")
"""Beginnings of an error's place that a client can know."""
_PATH = re.compile(r"(?:\b[a-z][a-z0-9+.-]*:/|(?<![\w./<-]))/(?:[^\s/'\",;()]+/)+(?=[^\s/])")
"""The folders of a path."""
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\",;()<>]+(?<![:.])")
_FILES = (
    r"csv|tsv|jsonl?|ya?ml|txt|md|parquet|arrow|safetensors|bin|pt|npy|npz|png|jpe?g|tiff?|bmp|gif|webp|dcm|wav|xml|py"
)
_LABEL = r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?"
_HOST = re.compile(
    r"(?<![\w.-])(?:"
    r"\[[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*\](?::\d{1,5})?"  # [fe80::1]:9000
    r"|(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\w.])"  # 10.0.0.7, with a port or without one
    rf"|(?:{_LABEL}\.)+(?!(?:{_FILES}):)[a-z][a-z0-9-]*:\d{{2,5}}(?!\w)"  # minio.inside:9000, but not train.csv:120
    r"|(?:localhost|(?=[a-z0-9-]*[a-z])[a-z0-9][a-z0-9-]*(?=:\d{4}))(?::\d{2,5})(?!\w)"  # minio:9000, localhost:80
    r")",
    re.IGNORECASE,
)
"""A host with its port, as libraries name what they cannot reach; an address also without a port."""
_PLACE = "(a place of this server)"


class HttpError(Exception):
    """A request that gets no answer: HTTP status, kind, message, and `retry_after` in seconds if a retry may help."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`headers` are further headers of the response."""
        super().__init__(message)
        self._headers = headers or {}
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error": self.message, "kind": self.kind, "status": self.status}

    def headers(self) -> dict[str, str]:
        """Return the headers that the status requires."""
        headers = dict(self._headers)
        if self.status in CLOSING:
            headers["connection"] = "close"
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="regraft"'
        return headers


def http_error_of(error: BaseException, where: str = "") -> HttpError:
    """Convert any error into an HTTP error; an unexpected one discloses nothing but its class."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, RegraftError):
        status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
        wait = getattr(error, "retry_after", None)
        if wait is not None:
            status = 503
        elif status == 503:
            wait = RETRY_S
        if status != 500:
            message = UNREACHABLE if status == 503 and isinstance(error, StoreError) else _message(error)
            return HttpError(status, error.kind, message, retry_after=wait)
    return HttpError(
        500, type(error).__name__, f"{where or 'this request'} could not be answered; the server's log has the details"
    )


def _message(error: RegraftError) -> str:
    """Return the message with the input that it is about, and without the folders of the store or its files."""
    row = error.where if error.where.startswith(_PLACES) else ""
    return without_folders(f"{row}: {error.message}" if row else error.message)


def without_folders(text: str) -> str:
    """Return the text with only the last part of each path and URL, and without hosts: places inside the server."""
    return _PATH.sub("", _HOST.sub(_PLACE, _URL.sub(_without_host, text)))


def _without_host(found: re.Match[str]) -> str:
    """Return the last part of a URL's path, without its host, bucket and query; for no such part, a word for it."""
    scheme, _, rest = found[0].partition("://")
    parts = [part for part in re.split(r"[?#]", rest)[0].split("/") if part]
    first = {"file": 0, "s3": 1, "gs": 1}.get(scheme.lower(), 2)
    return parts[-1] if len(parts) > first else _PLACE


def error_response(http_error: HttpError) -> JSONResponse:
    """Return the response that a client gets."""
    return JSONResponse(http_error.document(), http_error.status, http_error.headers())


def wrong(message: str, *, status: int = 422, kind: str = "DataError") -> HttpError:
    """Return the error for a request that does not fit the model."""
    return HttpError(status, kind, message)


def busy(message: str, seconds: float = RETRY_S, kind: str = "Busy") -> HttpError:
    """Return a 503 with the seconds after which to retry."""
    return HttpError(503, kind, message, retry_after=seconds)
