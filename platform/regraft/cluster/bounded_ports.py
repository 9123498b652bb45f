"""Bounds at the ports that Ray Serve opens: those of its own proxy, and of the replicas where HAProxy asks them.

Serve starts uvicorn itself, and no option of it chooses the protocol. But each of these processes calls the function
that VARIABLE names before it starts uvicorn, so the variable belongs into the environment of every node.
"""

from __future__ import annotations

import asyncio
import os
import socket

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.endpoint.http_protocol import HEAD_BYTES

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "regraft.cluster.bounded_ports:install"
PROTOCOL = "regraft.endpoint.http_protocol:BoundedProtocol"
UNPACED_BYTES = 8 << 20
BYTES_A_SECOND = 32 << 20
_PATIENCE_S = 3.0


class PacedBodies:
    """ASGI middleware that reads what is beyond an ordinary body no faster than a replica can refuse it.

    Serve's proxy keeps everything that arrives until the replica has answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        taken = 0

        async def paced() -> Message:
            nonlocal taken
            message = await receive()
            taken += (size := len(message.get("body", b"")))
            if taken > UNPACED_BYTES:
                await asyncio.sleep(size / BYTES_A_SECOND)
            return message

        await self._app(scope, paced, send)


def install() -> list[Middleware]:
    """Make every server of this process use regraft's protocol; returns the middlewares that Serve asks for."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = PROTOCOL
    return [Middleware(PacedBodies)]


def ask_for_bounds() -> None:
    """Make a Ray that is started here bound its ports; a running cluster has its own variables."""
    os.environ.setdefault(VARIABLE, CALLBACK)


def bounds_heads(host: str, port: int) -> bool:
    """Return whether whatever listens there refuses a head that is too long, instead of keeping it."""
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nx: " + b"a" * (2 * HEAD_BYTES))
            return b" 431 " in connection.recv(100)
    except TimeoutError:
        return False
    except OSError:  # it hung up
        return True
