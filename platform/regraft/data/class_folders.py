"""Rows of folders that are named after labels: the files in them, and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regraft.contracts import Raw
from regraft.data.folders import FolderContents
from regraft.errors import DataError


@dataclass(frozen=True)
class ClassFolders:
    """How folders of one kind of file become rows."""

    contents: type[FolderContents]
    """Lists a folder."""
    column: str
    """The column of the files."""
    noun: str
    """The files' name in messages, in the plural."""

    def rows(self, path: Path) -> Iterator[Raw]:
        """Yield the files of a folder in the order of class folder and name, and what is passed over.

        Without class folders, rows have no label. Raises DataError for folders inside class folders, and for nothing.
        """
        contents = self.contents.read(path)
        classes = [self.contents.read(path / name) for name in contents.folders]
        for part in classes:
            self._refuse_deeper(part)
        yield from contents.passed_over()
        if classes:
            problem = "is outside the class folders: move it into one of them"
            yield from (Raw({}, str(path / name), problem) for name in contents.files)
        else:
            yield from self._without_label(contents)
        for part in classes:
            yield from self._of_class(part)

    def _without_label(self, contents: FolderContents) -> Iterator[Raw]:
        """Yield the files of a folder without class folders. Raises DataError when it has none."""
        if not contents.files and not contents.broken:
            noun = self.noun
            message = f"holds no class folders: one for each label, with its {noun} in it; and no {noun} that are read"
            raise DataError(f"{message}. It has {contents.described()}", str(contents.folder))
        for name in contents.files:
            file = str(contents.folder / name)
            yield Raw({self.column: file}, file)

    def _of_class(self, contents: FolderContents) -> Iterator[Raw]:
        """Yield the files of a class folder; a bad row for a folder of which nothing is read."""
        if not contents.files:
            problem = f"is a class folder of which nothing is read; it has {contents.described()}"
            yield Raw({}, str(contents.folder), f"{problem}. Add {self.noun} that are read, or remove the folder")
        yield from contents.passed_over()
        folder, label = str(contents.folder), contents.folder.name
        for name in contents.files:
            file = f"{folder}{os.sep}{name}"
            yield Raw({self.column: file, "label": label}, file)

    def _refuse_deeper(self, contents: FolderContents) -> None:
        """Raise DataError when a class folder has folders in it."""
        if contents.folders:
            name = contents.folder.name
            raise DataError(
                f"is a folder inside the class folder {name!r}: {self.noun} must be directly in it; if {name!r} is a "
                f"part of the data and not a label, give {contents.folder} as the path",
                str(contents.folder / contents.folders[0]),
            )
