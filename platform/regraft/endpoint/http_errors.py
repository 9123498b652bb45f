"""What is a request told that gets no answer? A status, a kind, a reason and what to do; never a traceback."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

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
"""The first that fits counts."""
RETRY_S = 1.0
_PLACE = re.compile(r"(?:\b[a-z][a-z0-9+.-]*:/|(?<![\w./<-]))/(?:[^\s/'\",;()]+/)+(?=[^\s/])")


class HttpError(Exception):
    """No answer, and why: HTTP status, kind, message; `retry_after` in seconds where coming again may help."""

    def __init__(self, status: int, kind: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.message, "kind": self.kind, "status": self.status}

    def headers(self) -> dict[str, str]:
        """What its status asks for."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="regraft"'
        return headers


def http_error_of(error: BaseException, where: str = "") -> HttpError:
    """An error as what is told of it; of one that nobody foresaw nothing but its class."""
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
            return HttpError(status, error.kind, _told(error), retry_after=wait)
    return HttpError(
        500, type(error).__name__, f"{where or 'this request'} could not be answered; the server's log says more"
    )


def _told(error: RegraftError) -> str:
    """The message with the row it speaks of, and nothing of where the store or its files lie."""
    row = error.where if error.where.startswith("row ") else ""
    return unplaced(f"{row}: {error.message}" if row else error.message)


def unplaced(text: str) -> str:
    """The text with only the last part of each path and address: what is wrong with it, not where a server keeps it."""
    return _PLACE.sub("", text)


def wrong(message: str, *, status: int = 422, kind: str = "DataError") -> HttpError:
    """A request that does not fit."""
    return HttpError(status, kind, message)


def busy(
    message: str, seconds: float = RETRY_S, kind: str = "Busy", extra: Mapping[str, Any] | None = None
) -> HttpError:
    """503: come again after `seconds`."""
    return HttpError(503, kind, message, retry_after=seconds)
