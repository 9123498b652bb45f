"""The check of a sound's content: all of it is decoded once, so that no damage is met in the middle of a run."""

from __future__ import annotations

import io
from typing import Any

from regraft.errors import DataError
from regraft.media.sounds.sounds import BLOCK, SoundHeader, checked_sound, mono

METHOD = "2"
"""The number of this check: another one makes known files be checked again."""
_NAME = "it"


def damage(content: bytes) -> str:
    """Return why a sound cannot be used, as the rest of a sentence about it; an empty text where it can.

    Called in any thread. Raises DataError where memory is short, which says nothing about the sound, and Unsupported
    where the library is missing.
    """
    try:
        with checked_sound(io.BytesIO(content), _NAME) as (file, header):
            return _unread(file, header)
    except MemoryError:
        raise DataError("there is too little free memory to decode a sound: free some and try again") from None
    except DataError as error:
        return error.message.removeprefix(f"{_NAME} ")


def _unread(file: Any, header: SoundHeader) -> str:
    """Decode all of a sound; return what is wrong with its end, or an empty text."""
    count = 0
    while count < header.frames:
        block = file.read(min(BLOCK, header.frames - count), dtype="float32", always_2d=True)
        if not len(block):
            break
        mono(block, _NAME)
        count += len(block)
    if not count:
        return "has no samples: record it again or leave the row out"
    if count < header.frames and file.format == "FLAC":  # the others only estimate their length
        seconds = count / header.rate
        return (
            f"is damaged: it ends after {seconds:.1f} of {header.seconds:.1f} seconds: repair it or leave the row out"
        )
    return ""
