"""`audio`: a path, an s3:// URL, or the bytes of a sound file."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regraft.columns.files.file_column import FileColumn
from regraft.contracts.column import Allowance, BadCell, MadeUp, TooLarge
from regraft.contracts.file_ref import FileBytes, UndecodedFile
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import ImageView, ShownRow
from regraft.errors import DataError
from regraft.media.sounds.check import METHOD
from regraft.media.sounds.decoding import checked_apart, most_samples, plain_sound
from regraft.media.sounds.plain import CostlySound, is_plain, may_be_sound, stated_samples
from regraft.media.sounds.sounds import ALLOWED, SUFFIXES, sound_header
from regraft.media.sounds.spectrogram import sound_picture

_MEASURED = 50
"""Sounds of a sample that are opened to tell their lengths."""
_RATE, _FRAMES = 8_000, 2_000
"""Rate of made-up sounds, and samples of the shortest one."""
_IN_ROW = "sound in this row "


class AudioColumn(FileColumn):
    """A path, an s3:// URL, or the bytes of a sound file: WAV, FLAC, OGG or MP3."""

    noun: ClassVar[str] = "sound"
    called: ClassVar[str] = "a sound"
    bare: ClassVar[bool] = True
    media_type: ClassVar[str] = "audio/*"
    most_bytes: ClassVar[int | None] = 500_000_000

    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """BadCell unless the header is that of a sound within the limits."""
        try:
            sound_header(file)
        except DataError as error:
            raise BadCell(f"{name} {error.message.removeprefix(_IN_ROW)}".strip()) from None

    def problem(self, content: bytes) -> str:
        """Return what is wrong with a sound: all of it is decoded."""
        return checked_apart(content)

    def start_problem(self, head: bytes, size: int) -> str:
        """Return what is wrong with the size of a large file in S3: headers of sounds may need the end of the file."""
        return self._size_problem(size)

    def method(self) -> str:
        """Return the name of the check."""
        return f"{type(self).__qualname__} {METHOD}"

    def for_check(self, value: Any) -> Any:
        """Return the value itself: a file that is known by its content was decoded when it was read."""
        return value

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise names that end as those of sounds do, and sounds in the cells."""
        return self.files_likeness(sample, SUFFIXES, "sounds")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the lengths of some sounds."""
        try:
            every = [self.read_cell(cell, sample.folder) for cell in sample.cells[:_MEASURED]]
            found = sorted(sound_header(self.fetched(value)).seconds for value in every)
        except (BadCell, DataError):
            return None
        return "sounds", f"{found[0]:.1f} to {found[-1]:.1f} seconds, {found[len(found) // 2]:.1f} in the middle"

    def receive_body(self, body: bytes, allowance: Allowance) -> bytes:
        """Return a plain WAV file; any other sound to be decoded by another process. Samples count as pixels do."""
        if not body:
            raise BadCell(f"is empty; it is a sound's file ({ALLOWED})")
        if not may_be_sound(body):
            raise BadCell(f"is no sound of a format that is read; allowed are {ALLOWED}")
        stated = stated_samples(body)
        if stated is not None:
            allowance.decode(stated, _described(stated))
        if is_plain(body):
            with _refusing():
                sound_header(FileBytes(body, "in this row"))
            return body
        most = most_samples(body, stated)

        def converted() -> bytes:
            with _refusing():
                plain = plain_sound(body, most)
            if stated is None:
                allowance.decode(found := stated_samples(plain) or 0, _described(found))
            return FileBytes(plain, "in this row")

        return UndecodedFile(body, most, converted)

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a file in base64."""
        return {"type": "string", "contentEncoding": "base64", "description": "a sound's file in base64"}

    def example(self, position: int) -> str:
        """Return a short tone in base64."""
        return _example()

    def view(self, name: str, shown: ShownRow) -> ImageView:
        """Return a picture of the sound; an empty view where it cannot be opened any more."""
        try:
            return ImageView(name, shown.thumbnails.add(sound_picture(shown.row[name])))
        except DataError:
            return ImageView(name, None)

    def made_up(self, shared: MadeUp) -> bytes:
        """Return noise as a WAV file; rows have different lengths."""
        noise = np.random.default_rng(shared.number).integers(-3000, 3000, _FRAMES + 100 * (shared.number % 7))
        return wav(noise.astype(np.int16), _RATE)


def wav(samples: NDArray[np.int16], rate: int) -> bytes:
    """Return samples of one channel as a WAV file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.tobytes())
    return file.getvalue()


@contextmanager
def _refusing() -> Iterator[None]:
    """Raise BadCell or TooLarge for what is wrong with a request's sound."""
    try:
        yield
    except CostlySound as error:
        raise TooLarge(f"is refused: {error.message}") from None
    except DataError as error:
        raise BadCell(f"is refused: {error.message}") from None


def _described(samples: int) -> str:
    return f"the sound has {samples:,} samples, which count as pixels"


@lru_cache
def _example() -> str:
    times = np.arange(_FRAMES) / _RATE
    tone = 9_000 * np.sin(2 * np.pi * 440 * times) * np.sin(np.pi * times * _RATE / _FRAMES)
    return base64.b64encode(wav(tone.astype(np.int16), _RATE)).decode()
