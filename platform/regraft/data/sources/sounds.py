"""Source of folders of sounds: the label of a sound is the name of its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from regraft.contracts import Raw, Source
from regraft.data.class_folders import ClassFolders
from regraft.data.sound_folders import SoundFolder, is_sound, is_sound_folder, is_unread_sound
from regraft.errors import DataError
from regraft.media.sounds.sounds import ALLOWED, SUFFIXES

_FOLDERS = ClassFolders(SoundFolder, "audio", "sounds")


class Sounds(Source):
    """Sounds in folders that are named after their labels; the columns are `audio` and `label`.

    A folder of sounds without class folders, or a single sound, gives rows without a label, for prediction. What is no
    sound is counted by kind; a class folder of which nothing is read is a bad row, and so is a link that leads nowhere.
    """

    suffixes = SUFFIXES
    synonyms: ClassVar[frozenset[str]] = frozenset({"audiofolder", "audio", "audio-folder", "wav", "mp3"})

    def accepts(self, path: Path) -> bool:
        """Accept a sound, and a folder of sounds or of class folders."""
        if path.is_dir():
            return is_sound_folder(path)
        return super().accepts(path) or is_unread_sound(path.name)

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return how to read the labels of sounds without class folders from a table beside them."""
        folder = Path(str(raw.values.get("audio", ""))).parent
        return SoundFolder.read(folder).label_hint() if "label" not in raw.values and folder.is_dir() else ""

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield sounds in the order of class folder and name, and what is passed over."""
        if not path.is_dir():
            yield _only(path)
            return
        yield from _FOLDERS.rows(path)


def _only(path: Path) -> Raw:
    """Return the row of one sound. Raises DataError for a file of another kind."""
    if not is_sound(path.name):
        raise DataError(f"is no sound that is read ({ALLOWED}): convert it, or give a folder of sounds", str(path))
    return Raw({"audio": str(path)}, str(path))
