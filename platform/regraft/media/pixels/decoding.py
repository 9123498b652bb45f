"""Decode doubtful pictures in processes of their own, which are ended and replaced when one takes too much."""

from __future__ import annotations

from dataclasses import replace

from regraft.errors import DataError
from regraft.media.apart import jobs
from regraft.media.apart.pool import CORES, Bound, pool_of
from regraft.media.pixels.check import damage
from regraft.media.pixels.cost import CostlyPicture, UnknownPicture, is_plain, refuse_structure
from regraft.media.pixels.images import MEGAPIXELS

_MODULE = "regraft.media.pixels.decode_worker"
_SMALL_MEGABYTES = 64
"""Megabytes that a picture of few pixels may take."""
_BYTES_A_PIXEL = 20
"""Bytes that a pixel may take while it is decoded, in a request: JPEG 2000 takes the most."""
_MOST = MEGAPIXELS * 1_000_000

REQUEST = Bound(seconds=5, megabytes=256, wait_s=2, most=_MOST, processes=min(2, CORES), nice=jobs.NICE)
DATA = Bound(seconds=60, megabytes=2048, wait_s=3600, most=_MOST, processes=min(4, CORES))


def checked_apart(content: bytes) -> str:
    """Return what is wrong with a picture of the data (`check.damage`), decoding a doubtful one in another process."""
    if is_plain(content):
        return damage(content)
    try:
        return _asked(jobs.CHECK, content, DATA, DATA).decode()
    except CostlyPicture as error:
        return "cannot be used: " + error.message.replace("image in this row", "it")


def plain_picture(content: bytes, pixels: int = _MOST) -> bytes:
    """Return a request's picture, or a doubtful one as a file whose header shows what it costs.

    A doubtful picture may have so many pixels, and its memory is bounded by them. Raises CostlyPicture, UnknownPicture,
    DataError for a damaged picture, and Overloaded.
    """
    refuse_structure(content, "image in this row")
    if is_plain(content):
        return content
    megabytes = min(REQUEST.megabytes, _SMALL_MEGABYTES + pixels * _BYTES_A_PIXEL // 1_000_000)
    bound = replace(REQUEST, most=pixels, megabytes=megabytes)
    return _asked(jobs.CONVERT, content, bound, REQUEST)


def _asked(asked: bytes, content: bytes, bound: Bound, pool: Bound) -> bytes:
    """Return the answer of a process. Raises CostlyPicture, UnknownPicture, DataError for damage, and Overloaded."""
    kind, reply = pool_of(_MODULE, asked, pool, "pictures").ask(asked, content, bound)
    if kind == jobs.OVERDUE:
        raise CostlyPicture(f"image in this row takes more than {bound.limits} to decode: save it as a PNG")
    if kind == jobs.MEMORY:
        raise CostlyPicture(
            f"image in this row takes more than the {bound.megabytes:,} MB that its size allows to decode: make it "
            "smaller, or save it as a JPEG or PNG"
        )
    if kind == jobs.COSTLY:
        raise CostlyPicture(reply.decode())
    if kind == jobs.UNKNOWN:
        raise UnknownPicture("image in this row is not an image of a known format")
    if kind == jobs.DAMAGED:
        raise DataError(reply.decode())
    return reply
