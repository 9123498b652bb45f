"""The last resort for errors: any error of a handler is answered as JSON and logged, and discloses only its class.

A panic of an extension in Rust is no Exception: `except Exception` does not catch it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.endpoint.http_errors import error_response, http_error_of

ENDING = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""Errors that end the process or the request, and are not answered."""
T = TypeVar("T")
_log = logging.getLogger(__name__)


class ErrorGuard:
    """ASGI middleware that answers every error of the application but those that end the process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; answer it here when it fails."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ENDING:
            raise
        except BaseException as error:
            _log.error("%s could not be answered", scope.get("path", "a request"), exc_info=error)
            if started or scope["type"] != "http":
                raise
            await error_response(http_error_of(error))(scope, receive, send)


def result_or(value: T, make: Callable[[], T], what: str) -> T:
    """Return what `make` returns; log its error, and return `value` in place of it."""
    try:
        return make()
    except ENDING:
        raise
    except BaseException as error:
        _log.warning("%s: %s", what, error, exc_info=not isinstance(error, Exception))
        return value
