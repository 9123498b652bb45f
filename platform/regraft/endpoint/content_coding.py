"""Unpacking of request bodies (Content-Encoding), within the limit on their bytes."""

from __future__ import annotations

import asyncio
import zlib

from regraft.endpoint.body_reader import BodyBudget, too_large
from regraft.endpoint.http_errors import HttpError, wrong

READ = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
"""Codings that are unpacked, by the names that clients write."""
LARGEST_RATIO = 1032
"""Most bytes that a byte of deflate unpacks to."""
MOST_MEMBERS = 1024
"""Members of a gzip file, which may be several files one after the other."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""Formats, as zlib numbers them."""
_PIECE = 1 << 16


def coding_of(header: str) -> str | None:
    """Return the coding of a body, or None for a plain one. Raises HttpError 415 for one that is not read."""
    written = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not written:
        return None
    if len(written) > 1 or written[0] not in READ:
        raise HttpError(
            415,
            "UnreadBody",
            f"Content-Encoding {', '.join(written)[:80]} is not read; allowed are gzip and deflate, or a plain body",
            headers={"accept-encoding": "gzip, deflate, identity"},
        )
    return READ[written[0]]


async def unpack(body: bytes, coding: str, most: int, *, budget: BodyBudget) -> bytes:
    """Return the unpacked body.

    Raises HttpError 413 as soon as it exceeds `most` bytes, and 422 for one that is not packed that way. Its largest
    possible size is charged to the budget meanwhile.
    """
    with budget.one() as take:
        take(min(most, LARGEST_RATIO * len(body)))
        return await asyncio.to_thread(unpacked, body, coding, most)


def unpacked(body: bytes, coding: str, most: int) -> bytes:
    """Unpack a body. Raises HttpError as `unpack` does."""
    out, at = bytearray(), 0
    try:
        for _ in range(MOST_MEMBERS):
            at = _unpack_member(body, at, out, _format(body, coding), most=most)
            rest = len(body) - at
            if not rest or (coding == "gzip" and not body[at] and body.count(b"\0", at) == rest):  # padding
                return bytes(out)
            if coding != "gzip":
                break
    except zlib.error as error:
        raise wrong(f"the body is not {coding}, which Content-Encoding says: {str(error)[:80]}") from None
    raise wrong(f"the body's {coding} is followed by something else, or has more than {MOST_MEMBERS} members")


def _format(body: bytes, coding: str) -> int:
    """Return zlib's number of the format; some clients send deflate without the header that belongs to it."""
    if coding == "gzip":
        return _GZIP
    return _ZLIB if len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else _RAW


def _unpack_member(body: bytes, at: int, out: bytearray, form: int, *, most: int) -> int:
    """Unpack what begins at `at` onto `out`, in pieces; return where it ends."""
    unpacker = zlib.decompressobj(form)
    pending = b""
    while not unpacker.eof:
        if not pending:
            pending = body[at : at + _PIECE]
            at += len(pending)
        piece = unpacker.decompress(pending, _PIECE)
        pending = unpacker.unconsumed_tail
        out += piece
        if len(out) > most:
            raise too_large(most, "unpacks to more")
        if not (piece or pending or unpacker.eof) and at >= len(body):
            raise wrong("the packed body is cut off: its end is missing")
    return at - len(unpacker.unused_data)
