"""Senders that never end, that send slowly, and that come in numbers; nothing here has a key.

`python -m support.hostile_senders HOST PORT KIND` sends without a pause until it is ended.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import time
from collections.abc import Callable

MODEL = "/models/text-classification"
POST = f"POST {MODEL} HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UNKNOWN = b"POST /models/nobody HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
MUCH = b"x-a: b\r\n" * (1 << 15)
LONG = b"a" * (1 << 18)
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
ENDLESS = {
    "many headers": (GET, MUCH),
    "one header": (GET + b"x: ", LONG),
    "an address": (b"GET /healthz?", LONG),
    "a method": (b"", LONG),
    "empty lines": (b"", b"\r\n" * (1 << 17)),
    "the name of a header": (GET, LONG),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", MUCH),
    "one trailer": (CHUNKED + b"1\r\n{\r\n0\r\nx: ", LONG),
    "a chunk's extension": (CHUNKED + b"1;", LONG),
    "extensions of many chunks": (CHUNKED, (b"1;" + b"a" * 4000 + b"\r\n{\r\n") * 64),
    "trailers after a refusal": (UNKNOWN + b"1\r\n{\r\n0\r\n", MUCH),
    "extensions after a refusal": (UNKNOWN + b"1;", LONG),
    "chunks after a refusal": (UNKNOWN, b"40000\r\n" + LONG + b"\r\n"),
    "a body after a refusal": (UNKNOWN.replace(b"Transfer-Encoding: chunked", b"Content-Length: 999999999"), LONG),
    "a body that is not asked for": (GET + b"Content-Length: 999999999\r\n\r\n", LONG),
    "a body that is too large": (CHUNKED, b"40000\r\n" + LONG + b"\r\n"),
}
SLOW = {
    "a head": (GET, b"x-a: b\r\n"),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"x-a: b\r\n"),
    "a body": (POST + b"Content-Length: 1000\r\n\r\n", b"a"),
    "a chunk's extension": (CHUNKED + b"1;", b"a"),
    "a body after a refusal": (UNKNOWN + b"1\r\n{\r\n", b"1\r\na\r\n"),
    "nothing": (b"", b""),
}
MOST = 64 << 20
SLOW_AT_ONCE = 120
MANY_AT_ONCE = 400


def connected(host: str, port: int) -> socket.socket:
    """Return a connection."""
    return socket.create_connection((host, port), timeout=10)


def sent_until_closed(
    connection: socket.socket, start: bytes, repeated: bytes, *, seconds: float = 20, most: float = MOST
) -> int:
    """Send without end; return the bytes that were taken before the connection closed. Fails when it never does."""
    count, deadline = 0, time.monotonic() + seconds
    try:
        connection.sendall(start)
        while count < most and time.monotonic() < deadline:
            connection.sendall(repeated)
            count += len(repeated)
    except OSError:
        return count
    raise AssertionError(f"{count:,} bytes were taken and the connection is open")


def endless(host: str, port: int) -> None:
    """Send each kind without end, one connection after the other."""
    for kind in itertools.cycle(ENDLESS):
        try:
            with connected(host, port) as connection:
                sent_until_closed(connection, *ENDLESS[kind])
        except (OSError, AssertionError):  # a connection that is ended by time takes more than others
            time.sleep(0.01)


def slow(host: str, port: int) -> None:
    """Hold many connections that send a little every half second; each that was closed is opened again."""
    held: dict[socket.socket, bytes] = {}
    kinds = itertools.cycle(SLOW.values())
    while True:
        for connection, little in list(held.items()):
            try:
                connection.sendall(little)
            except OSError:
                del held[connection]
                connection.close()
        while len(held) < SLOW_AT_ONCE:
            start, little = next(kinds)
            try:
                connection = connected(host, port)
                connection.sendall(start)
                held[connection] = little
            except OSError:
                break
        time.sleep(0.5)


def many(host: str, port: int) -> None:
    """Open connections one after the other, a hundred a second, and close the oldest when there are many."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            held.append(connected(host, port))
        if len(held) > MANY_AT_ONCE:
            held.pop(0).close()
        time.sleep(0.01)


KINDS: dict[str, Callable[[str, int], None]] = {"endless": endless, "slow": slow, "many": many}

if __name__ == "__main__":
    KINDS[sys.argv[3]](sys.argv[1], int(sys.argv[2]))
