"""Read sound files as samples of one channel, at the rate that a model takes. Limits of format and length apply.

Only the parts that are asked for are decoded, so that a file costs what is read of it, whatever its header states.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.contracts.file_ref import FileBytes, UndecodedFile, opened
from regraft.errors import DataError, RegraftError, Unsupported
from regraft.lazy import Later

scipy_signal = Later("scipy.signal")

Samples = NDArray[np.float32]
"""Samples of one channel, (samples,), from -1 to 1."""

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""Formats that are read, as libsndfile names them."""
ALLOWED = "WAV, FLAC, OGG, MP3"
SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3")
"""Endings of the names of sounds that are read."""
MOST_SECONDS = 600
"""Longest sound that is read."""
MOST_CHANNELS = 16
RATES = (1_000, 384_000)
"""Lowest and highest rate of a file, in samples a second."""
BLOCK = 1 << 16
"""Samples that are decoded at once where all of a file is looked at."""
_MARGIN_S = 0.01
"""Sound around a window that is resampled with it, so that the filter meets no edge."""
_LEAD = 8_192
"""Samples of an OGG file that are read and dropped after a seek: its first block lacks the one that it overlaps."""
_FINEST = 2_000
"""Largest denominator of the ratio of two rates: unusual ones would take a filter of millions of numbers."""


class SoundHeader(NamedTuple):
    """What a sound's header states."""

    rate: int
    """Samples a second of each channel."""
    frames: int
    """Samples of each channel."""
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate


class Span(NamedTuple):
    """A part of a sound, in samples of a channel."""

    start: int
    length: int


def sound_library() -> Any:
    """Return the module that decodes sounds. Raises Unsupported where it is not installed."""
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError):  # OSError: without the C library that it looks for
        raise Unsupported("sounds need soundfile: pip install 'regraft[audio]'", where="data") from None


def sound_header(value: Any) -> SoundHeader:
    """Return what a sound's header states. Raises DataError for a file that is no sound, or is beyond the limits."""
    with checked_sound(value, sound_name(value)) as (_, header):
        return header


def read_spans(value: Any, spans: Sequence[Span], rate: int) -> list[Samples]:
    """Return parts of a sound at another rate; channels are averaged.

    Spans count the file's own samples. Raises DataError for a file that cannot be decoded, or holds no numbers.
    """
    name = sound_name(value)
    with checked_sound(value, name) as (file, header):
        ratio = Fraction(rate, header.rate).limit_denominator(_FINEST)
        return [_resampled(_read(file, header, span, name), span, ratio) for span in spans]


def sound_name(value: Any) -> str:
    """Return the name that messages have for a sound."""
    if isinstance(value, FileBytes):
        return f"sound {value.name}"
    return f"sound {value}" if isinstance(value, str | os.PathLike) else "sound in this row"


@contextmanager
def checked_sound(value: Any, name: str) -> Iterator[tuple[Any, SoundHeader]]:
    """Open a path, bytes or an open file whose header is within the limits; messages call it `name`.

    Raises DataError with the library's reason, also for its errors within the block.
    """
    assert not isinstance(value, UndecodedFile), "it is for another process"
    library, value = sound_library(), opened(value)
    try:
        with _stream(value) as stream:
            if not stream.seek(0, os.SEEK_END):
                raise DataError(f"{name} is empty: record it again or leave it out")
            stream.seek(0)
            with library.SoundFile(stream) as file:
                yield file, _checked_header(file, name)
    except (RegraftError, MemoryError):
        raise
    except OSError as error:
        raise DataError(f"{name} is not readable: {error.strerror or error}") from None
    except Exception as error:  # the library raises several kinds for bytes that it does not expect
        raise DataError(f"{name} is no sound that can be read ({ALLOWED}): {_reason(error)}") from None


@contextmanager
def _stream(value: Any) -> Iterator[Any]:
    if isinstance(value, str | Path):
        with open(value, "rb") as stream:  # not by its name, whose ending would decide the format
            yield stream
        return
    file = io.BytesIO(value) if isinstance(value, bytes) else value
    yield file
    file.seek(0)


def _checked_header(file: Any, name: str) -> SoundHeader:
    if file.format not in FORMATS:
        raise DataError(f"{name} is in {file.format}, which is not read; allowed are {ALLOWED}: convert it")
    if not file.seekable():
        raise DataError(f"{name} cannot be read in parts: save it as WAV or FLAC")
    header = SoundHeader(int(file.samplerate), int(file.frames), int(file.channels))
    if not RATES[0] <= header.rate <= RATES[1]:
        raise DataError(f"{name} has {header.rate:,} samples a second; allowed are {RATES[0]:,} to {RATES[1]:,}")
    if header.channels > MOST_CHANNELS:
        raise DataError(f"{name} has {header.channels} channels; at most {MOST_CHANNELS} are allowed")
    if header.frames <= 0:
        raise DataError(f"{name} has no samples: record it again or leave it out")
    if header.seconds > MOST_SECONDS:
        raise DataError(
            f"{name} takes {header.seconds:,.0f} seconds; at most {MOST_SECONDS} are read: cut it into several files"
        )
    return header


class _Part(NamedTuple):
    """Samples around a span, and how many of them stand before it."""

    samples: Samples
    before: int


def _read(file: Any, header: SoundHeader, span: Span, name: str) -> _Part:
    margin = round(_MARGIN_S * header.rate)
    start = max(0, span.start - margin)
    if file.tell() != start:
        lead = min(start, _LEAD) if file.format == "OGG" else 0
        file.seek(start - lead)
        file.read(lead, dtype="float32")
    before = span.start - start
    samples = mono(file.read(before + span.length + margin, dtype="float32", always_2d=True), name)
    if len(samples) <= before:
        raise DataError(f"{name} is damaged: it ends before {span.start / header.rate:.1f} seconds")
    return _Part(samples, before)


def _resampled(part: _Part, span: Span, ratio: Fraction) -> Samples:
    samples, before = part
    length = min(span.length, len(samples) - before)
    if ratio == 1:
        return samples[before : before + length]
    found = scipy_signal.resample_poly(samples, ratio.numerator, ratio.denominator)
    first, count = round(before * ratio), max(1, round(length * ratio))
    resampled: Samples = np.ascontiguousarray(found[first : first + count], dtype=np.float32)
    return resampled


def mono(block: NDArray[np.float32], name: str) -> Samples:
    """Return the mean of the channels of samples (samples, channels). Raises DataError for samples that are no numbers.

    Numbers beyond full scale are cut off, as players do it.
    """
    if not np.isfinite(block).all():
        raise DataError(f"{name} holds samples that are no numbers: repair it or leave it out")
    found: Samples = block.clip(-1, 1).mean(1, dtype=np.float32)
    return found


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", "") or error)
    return " ".join(text.split()) or type(error).__name__
