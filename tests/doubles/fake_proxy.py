"""A proxy for a real S3 server that lets a share of the requests fail as networks do."""

from __future__ import annotations

import hashlib
import http.client
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

FAULTS = {"503": 0.05, "timeout": 0.02, "reset": 0.02, "cut": 0.01, "lost": 0.01}
"""Share of each fault. 503: rejected, not executed. timeout: no response, executed or not. reset: the connection breaks
while the request body is sent. cut: the response body is truncated. lost: executed, but the response is lost."""
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class FakeProxy:
    """`with FakeProxy(endpoint) as proxy:` serves at `proxy.endpoint`; `proxy.seen` counts the faults.

    The fault of a request is drawn from the seed and the request's number. A fault that is impossible for a request is
    postponed: only a response with a body can be truncated.
    """

    def __init__(self, endpoint: str, seed: int = 0, patience_s: float = 2.0) -> None:
        self.upstream = urlsplit(endpoint)
        self.seed, self.patience_s = seed, patience_s
        self.seen: Counter[str] = Counter()
        self.healthy = False
        self._owed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Request,), {"proxy": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()

    def draw(self, possible: set[str]) -> str:
        """Return the fault of the next request, "" for none."""
        with self._lock:
            self.seen["requests"] += 1
            number = self.seen["requests"]
            if self.healthy:
                return ""
            digest = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
            drawn = int.from_bytes(digest[:8], "big") / 2**64
            for fault, share in FAULTS.items():
                drawn -= share
                if drawn < 0:
                    self._owed[fault] += 1
                    break
            found = next((fault for fault in FAULTS if self._owed[fault] and fault in possible), "")
            if found:
                self._owed[found] -= 1
                self.seen[found] += 1
            return found


class Request(BaseHTTPRequestHandler):
    proxy: FakeProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        possible = {"503", "timeout", "lost"} | ({"reset"} if size else set())
        possible |= {"cut"} if self.command == "GET" and "?" not in self.path else set()
        fault = self.proxy.draw(possible)
        if fault == "reset":
            self.rfile.read(size // 2)
            return self._hang_up(hard=True)
        body = self.rfile.read(size)
        if fault == "503":
            return self._answer(503, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>")
        done = fault != "timeout" or self.proxy.seen["timeout"] % 2 == 0
        answer = self._ask(body) if done else (0, [], b"")
        if fault == "timeout":
            self.proxy.stop.wait(self.proxy.patience_s * 2)
        if fault in ("timeout", "lost"):
            return self._hang_up(hard=False)
        return self._answer(*answer, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the server's response to the unchanged request, host and signature included."""
        line = http.client.HTTPConnection(self.proxy.upstream.hostname or "", self.proxy.upstream.port, timeout=120)
        try:
            line.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*HOP_BY_HOP, "expect"}:
                    line.putheader(name, value)
            line.endheaders(body or None)
            answer = line.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            line.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), "")
        for name, value in headers:
            if name.lower() not in {*HOP_BY_HOP, "content-length"}:
                self.send_header(name, value)
        # The response to HEAD has a length and no body.
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self._hang_up(hard=False)

    def _hang_up(self, *, hard: bool) -> None:
        """End the connection, in order or with a reset."""
        self.close_connection = True
        if hard:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
