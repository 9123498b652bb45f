"""Plain WAV files, whose header shows what they cost; others are decoded into one by a process of its own."""

from __future__ import annotations

import struct
from typing import Any

from regraft.contracts.file_ref import FileBytes
from regraft.errors import DataError
from regraft.media.sounds.sounds import BLOCK, Samples, checked_sound, mono, sound_name

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
"""A WAV file up to its samples, where nothing but `fmt ` stands before them."""
_PCM, _FLOAT = 1, 3
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
"""Bits of a sample by the kind of samples."""


class CostlySound(DataError):
    """A sound that takes too much to decode."""


def is_plain(content: bytes) -> bool:
    """Return whether a file is a WAV of samples as they are, with nothing before or behind them."""
    return _plain_samples(content) is not None


def stated_samples(content: bytes) -> int | None:
    """Return the samples of all channels that a file states at a fixed place; None where it states none.

    A file may state anything: whoever decodes it holds it to what it stated.
    """
    if (plain := _plain_samples(content)) is not None:
        return plain
    if content.startswith(b"fLaC") and len(content) >= 26:
        bits = int.from_bytes(content[18:26])
        return (bits & ((1 << 36) - 1)) * ((bits >> 41 & 7) + 1) or None
    return None


def may_be_sound(content: bytes) -> bool:
    """Return whether a file begins like one of the formats that are read."""
    if content.startswith((b"RIFF", b"RIFX", b"RF64")):
        return content[8:12] == b"WAVE"
    return content.startswith((b"fLaC", b"OggS", b"ID3")) or (content[:1] == b"\xff" and content[1:2] >= b"\xe0")


def plain_wav(content: bytes, most: int) -> bytes:
    """Return a sound as a plain WAV file of one channel, with the very samples that are read of the sound itself.

    Raises CostlySound for one of more than `most` samples, and DataError for one that cannot be decoded.
    """
    name = sound_name(FileBytes(b"", "in this row"))
    pieces, count, at = [], 0, 0
    with checked_sound(content, name) as (file, header):
        while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
            count, at = count + block.size, at + len(block)
            if count > most or at > header.frames:
                raise CostlySound(f"{name} decodes to more samples than its header or size lets expect: send it as WAV")
            pieces.append(mono(block, name).tobytes())
    if not at:
        raise DataError(f"{name} has no samples")
    return _with_header(b"".join(pieces), header.rate)


def float_wav(samples: Samples, rate: int) -> bytes:
    """Return samples of one channel as a plain WAV file of 32-bit floating-point numbers."""
    return _with_header(samples.tobytes(), rate)


def _with_header(samples: bytes, rate: int) -> bytes:
    size = len(samples)
    parts: tuple[Any, ...] = (b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, _FLOAT, 1, rate, 4 * rate, 4, 32, b"data", size)
    return _HEADER.pack(*parts) + samples


def _plain_samples(content: bytes) -> int | None:
    if len(content) < _HEADER.size:
        return None
    riff, _, wave, form, length, kind, channels, _, _, step, bits, data, size = _HEADER.unpack_from(content)
    if (riff, wave, form, length, data) != (b"RIFF", b"WAVE", b"fmt ", 16, b"data"):
        return None
    whole = channels > 0 and bits in _WIDTHS.get(kind, ()) and step == channels * bits // 8
    return size * 8 // bits if whole and size + _HEADER.size == len(content) else None
