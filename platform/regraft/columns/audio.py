"""`audio`: a path, an s3:// URL, or the bytes of a sound file."""

from __future__ import annotations

import base64
import io
import wave
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regraft.columns.files.file_column import FileColumn
from regraft.contracts.column import Allowance, BadCell, MadeUp
from regraft.contracts.file_ref import FileBytes
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import ImageView, ShownRow
from regraft.errors import DataError
from regraft.media.sounds.check import METHOD, damage
from regraft.media.sounds.sounds import ALLOWED, SUFFIXES, SoundHeader, sound_header
from regraft.media.sounds.spectrogram import sound_picture

_OPENED, _MEASURED = 3, 50
"""Sounds of a sample that are opened to recognise them, and to tell their lengths."""
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
        return damage(content)

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
        if sample.texts is not None and not all(text.lower().endswith(SUFFIXES) for text in sample.texts):
            return None
        if sample.texts is None and not all(isinstance(cell, bytes | dict) for cell in sample.cells):
            return None
        try:
            for cell in sample.cells[:_OPENED]:
                self.read_cell(cell, sample.folder)
        except BadCell:
            return None
        return Likeness(0.9, f"{sample.distinct:,} sounds")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the lengths of some sounds."""
        try:
            every = [self.read_cell(cell, sample.folder) for cell in sample.cells[:_MEASURED]]
            found = sorted(sound_header(self.fetched(value)).seconds for value in every)
        except (BadCell, DataError):
            return None
        return "sounds", f"{found[0]:.1f} to {found[-1]:.1f} seconds, {found[len(found) // 2]:.1f} in the middle"

    def receive_body(self, body: bytes, allowance: Allowance) -> bytes:
        """Return the bytes of a sound within the limits; its samples count as pixels do."""
        if not body:
            raise BadCell(f"is empty; it is a sound's file ({ALLOWED})")
        try:
            header = sound_header(FileBytes(body, "in this row"))
        except DataError as error:
            raise BadCell(f"is refused: {error.message}") from None
        allowance.decode(header.frames * header.channels, _described(header))
        return body

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


def _described(header: SoundHeader) -> str:
    return f"the sound has {header.frames * header.channels:,} samples, which count as pixels"


@lru_cache
def _example() -> str:
    times = np.arange(_FRAMES) / _RATE
    tone = 9_000 * np.sin(2 * np.pi * 440 * times) * np.sin(np.pi * times * _RATE / _FRAMES)
    return base64.b64encode(wav(tone.astype(np.int16), _RATE)).decode()
