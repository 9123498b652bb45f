"""Decode sounds in processes of their own, which are ended and replaced when one takes too much."""

from __future__ import annotations

from dataclasses import replace

from regraft.errors import DataError
from regraft.media.apart import jobs
from regraft.media.apart.pool import CORES, Bound, pool_of
from regraft.media.sounds.check import damage
from regraft.media.sounds.plain import CostlySound, is_plain
from regraft.media.sounds.sounds import sound_library

_MODULE = "regraft.media.sounds.decode_worker"
_SMALL_MEGABYTES = 96
"""Megabytes that a sound of few samples may take."""
_BYTES_A_SAMPLE = 12
UNSTATED = 4_000_000
"""Samples that any sound may have which states none: 83 seconds of one channel at 48 kHz."""
_SAMPLES_A_BYTE = 24
"""Samples that a byte of such a sound may decode to: speech in Opus, the densest of the formats, has so many."""
_MOST = 60_000_000

REQUEST = Bound(seconds=5, megabytes=320, wait_s=2, most=_MOST, processes=min(2, CORES), nice=jobs.NICE)
DATA = Bound(seconds=120, megabytes=1024, wait_s=3600, most=_MOST, processes=min(4, CORES))


def checked_apart(content: bytes) -> str:
    """Return what is wrong with a sound of the data (`check.damage`); plain WAV files are decoded in this process."""
    sound_library()
    if not content or is_plain(content):
        return damage(content)
    try:
        return _asked(jobs.CHECK, content, DATA, DATA).decode()
    except CostlySound as error:
        return error.message.removeprefix("sound in this row ")


def most_samples(content: bytes, stated: int | None) -> int:
    """Return the samples that a request's sound may decode to: those that it states, or what its size lets expect."""
    return stated if stated is not None else min(_MOST, max(UNSTATED, _SAMPLES_A_BYTE * len(content)))


def plain_sound(content: bytes, samples: int) -> bytes:
    """Return a request's sound as a plain WAV file of at most so many samples.

    Raises CostlySound, DataError for a damaged sound, Overloaded, and Unsupported without the library.
    """
    sound_library()
    megabytes = min(REQUEST.megabytes, _SMALL_MEGABYTES + samples * _BYTES_A_SAMPLE // 1_000_000)
    return _asked(jobs.CONVERT, content, replace(REQUEST, most=samples, megabytes=megabytes), REQUEST)


def _asked(asked: bytes, content: bytes, bound: Bound, pool: Bound) -> bytes:
    kind, reply = pool_of(_MODULE, asked, pool, "sounds").ask(asked, content, bound)
    if kind in (jobs.OVERDUE, jobs.MEMORY):
        raise CostlySound(f"sound in this row takes more than {bound.limits} to decode: save it as WAV, or cut it")
    if kind == jobs.COSTLY:
        raise CostlySound(reply.decode())
    if kind == jobs.DAMAGED:
        raise DataError(reply.decode())
    return reply
