"""A small S3 server in memory with faults on demand, which neither a mock nor a healthy server shows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape

Fault = Callable[["Request"], str]
"""Returns the fault of a request: "" for none, "503", "409", "403:Code", "lost" (executed, no response), "reset" (not
executed, no response), "cut" (a truncated body)."""


class FakeS3:
    """`with FakeS3() as server: server.fault = ...`; bucket "b" exists. `quotes` is the required form of If-Match."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.modified: dict[str, str] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.marks: dict[str, str] = {}
        self.fault: Fault = lambda request: ""
        self.quotes = "either"
        self.conditions = True
        self.seen: list[str] = []
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Request,), {"state": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Request(BaseHTTPRequestHandler):
    state: FakeS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small response waits 40 ms for an acknowledgement

    def log_message(self, *_: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the server's own time, also where a test sets the clock of its client."""
        return format_datetime(datetime.now(UTC), usegmt=True)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, self.key = unquote(parts.path).lstrip("/").partition("/")
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.state.lock:
            self.state.seen.append(f"{self.command} {self.key}")
            self.wrong = self.state.fault(self)
            if self.wrong[:1] in "345" and self.wrong:
                status, _, code = self.wrong.partition(":")
                return self._refuse(int(status), code or "SlowDown")
            if self.wrong == "reset":
                return self._hang_up()
            if bucket != "b":
                return self._refuse(404, "NoSuchBucket")
            getattr(self, f"_{self.command.lower()}")()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>injected: {code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        if self.wrong == "lost":
            return self._hang_up()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.wrong == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self._hang_up()
        self.wfile.write(body)

    def _condition_fails(self) -> bool:
        if not self.state.conditions:
            return False
        there = self.state.objects.get(self.key)
        if self.headers.get("If-None-Match") == "*":
            return there is not None
        wanted = self.headers.get("If-Match")
        if wanted is None:
            return False
        tag = there[1]["ETag"] if there else ""
        allowed = {"either": (tag, tag.strip('"')), "bare": (tag.strip('"'),), "quoted": (tag,)}[self.state.quotes]
        return there is None or wanted not in allowed

    def _put(self) -> None:
        if "uploadId" in self.query:
            self.state.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
            return self._answer(200, ETag=_tag(self.body))
        if self._condition_fails():
            return self._refuse(412, "PreconditionFailed")
        self._store(self.body, {})
        self._answer(200, ETag=_tag(self.body))

    def _store(self, data: bytes, more: dict[str, str]) -> None:
        self.state.objects[self.key] = data, {"ETag": _tag(data), **more}
        self.state.modified[self.key] = datetime.now(UTC).isoformat(timespec="milliseconds")

    def _post(self) -> None:
        if "uploads" in self.query:
            upload = uuid4().hex
            self.state.uploads[upload] = {}
            self.state.marks[upload] = self.headers.get("x-amz-meta-regraft-upload", "")
            document = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self._answer(200, document.encode())
        upload = self.query["uploadId"]
        if upload not in self.state.uploads:
            return self._refuse(404, "NoSuchUpload")
        parts = self.state.uploads.pop(upload)
        whole = b"".join(parts[number] for number in sorted(parts))
        self._store(whole, {"x-amz-meta-regraft-upload": self.state.marks.pop(upload)})
        self._answer(200, b"<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>")

    def _delete(self) -> None:
        if "uploadId" in self.query:
            self.state.uploads.pop(self.query["uploadId"], None)
        else:
            self.state.objects.pop(self.key, None)
        self._answer(204)

    def _head(self) -> None:
        self._get()

    def _get(self) -> None:
        if "list-type" in self.query:
            return self._list(self.query.get("prefix", ""))
        if "uploads" in self.query:
            return self._answer(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        if self.key not in self.state.objects:
            return self._refuse(404, "NoSuchKey")
        data, headers = self.state.objects[self.key]
        wanted = self.headers.get("Range")
        if not wanted:
            return self._answer(200, data, **headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        if start >= len(data):
            return self._refuse(416, "InvalidRange")
        self._answer(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}", **headers)

    def _list(self, prefix: str) -> None:
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key>"
            f"<LastModified>{self.state.modified.get(key, '2026-01-01T00:00:00Z')}</LastModified>"
            f"<ETag>{escape(headers['ETag'])}</ETag><Size>{len(data)}</Size></Contents>"
            for key, (data, headers) in sorted(self.state.objects.items())
            if key.startswith(prefix)
        )
        document = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        self._answer(200, document.encode())


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
