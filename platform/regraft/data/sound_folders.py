"""Folders of sounds: what is in them, and how they are recognised."""

from __future__ import annotations

import os
from pathlib import Path

from regraft.data.file_kinds import TABLE_SUFFIXES, leftover_kind, suffix_of
from regraft.data.folders import FolderContents, has_images, is_saved_dataset, subfolders, table_advice
from regraft.media.sounds.sounds import SUFFIXES

UNREAD_SOUNDS = dict.fromkeys(
    (".m4a", ".aac", ".wma", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".amr", ".mka", ".weba", ".ac3", ".ape"),
    "sounds of a format that is not read: convert to .wav or .flac",
)
"""Suffixes of sounds that are not read, with the way out."""


def is_sound(name: str) -> bool:
    """Return whether a file's name ends as those of sounds that are read do."""
    return suffix_of(name) in SUFFIXES


def is_unread_sound(name: str) -> bool:
    """Return whether a name is that of a sound in a format that is not read."""
    return suffix_of(name) in UNREAD_SOUNDS


def is_sound_folder(folder: Path) -> bool:
    """Return whether a folder has sounds, or folders of sounds up to two levels deep, and no images beside them.

    Sounds beside images are passed over by the sources of images.
    """
    inside = subfolders(folder)
    candidates = [folder, *(candidate for one in inside for candidate in (one, *subfolders(one)))]
    return any(map(_has_sound, candidates)) and not (is_saved_dataset(folder) or has_images(folder))


class SoundFolder(FolderContents):
    """What is directly in a folder of sounds, each part sorted by name."""

    def _is_read(self, entry: os.DirEntry[str]) -> bool:
        return is_sound(entry.name)

    def _kind(self, entry: os.DirEntry[str]) -> str:
        suffix = suffix_of(entry.name)
        if suffix in TABLE_SUFFIXES:
            return f"tables beside sounds (to read one, write {self._advice(entry.name)})"
        what = UNREAD_SOUNDS.get(suffix)
        kind = f"files named *{suffix}" if suffix else "files without a suffix"
        return f"{kind} ({what})" if what else kind

    def _advice(self, name: str) -> str:
        return table_advice(self.folder / name, "audio")


def _has_sound(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(
            not leftover_kind(entry.name)
            and not entry.is_dir()
            and (is_sound(entry.name) or is_unread_sound(entry.name))
            for entry in entries
        )
