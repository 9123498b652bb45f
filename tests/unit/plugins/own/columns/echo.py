"""`echo`: a WAV file."""

from __future__ import annotations

import io
import wave
from typing import Any, ClassVar

import numpy as np

from regraft.columns.files.file_column import FileColumn
from regraft.contracts import Allowance, BadCell, MadeUp

RATE = 8000


class Echo(FileColumn):
    """A path, an s3:// URL, or the bytes of a WAV file of 16-bit samples."""

    noun: ClassVar[str] = "sound"
    called: ClassVar[str] = "a sound"
    bare: ClassVar[bool] = True
    media_type: ClassVar[str] = "audio/*"

    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """BadCell unless the header is that of a WAV file with samples."""
        try:
            with wave.open(file) as sound:
                good = sound.getnframes() > 0 and sound.getsampwidth() == 2
        except FileNotFoundError:
            raise
        except (wave.Error, EOFError) as error:
            raise BadCell(f"{name} is no WAV file: {error}") from None
        if not good:
            raise BadCell(f"{name} has no samples of 16 bits")

    def receive_body(self, body: bytes, allowance: Allowance) -> bytes:
        """Return the bytes of a WAV file."""
        self.read_header(io.BytesIO(body), "the sound")
        allowance.decode(len(body) // 2, f"the sound has {len(body) // 2} samples")
        return body

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a file in base64."""
        return {"type": "string", "contentEncoding": "base64", "description": "a WAV file in base64"}

    def made_up(self, shared: MadeUp) -> bytes:
        """Return noise as a WAV file."""
        samples = np.random.default_rng(shared.number).integers(-2000, 2000, 256, dtype=np.int16)
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE)
            sound.writeframes(samples.tobytes())
        return file.getvalue()
