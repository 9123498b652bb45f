"""The images that an annotation file names: beside it, in the usual folders, or in the folder that a spec names."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from regraft.columns.files.file_names import FileName, find_file, last_part

_DRIVE = re.compile(r"[A-Za-z]+:/")
"""Beginning of a name on Windows, or of an address."""
_BY_LAST_PART = "the image was found by the last part of its name in data.format.images"


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """Where an image is: its path, or the path where it should be; `problem` says why it cannot be used."""

    path: str
    remark: str = ""
    problem: str | None = None
    exists: bool = False


class PictureFinder:
    """Finds images by name in the first of some folders, or else in exactly one of the others."""

    def __init__(self, folders: Sequence[Path], setting: str, *, by_last_part: bool) -> None:
        """`setting` is what a spec writes to name a folder.

        `by_last_part` allows an image to be found by its name without folders, where the name itself leads nowhere.
        """
        self._folders = [folders[0], *(folder for folder in folders[1:] if folder.is_dir())]
        self._setting, self._by_last_part = setting, by_last_part

    def find(self, name: str) -> FoundPicture:
        """Return where the image of that name is."""
        if path := find_file(name, self._folders[0]):
            return FoundPicture(path, exists=True)
        others = {path for folder in self._folders[1:] if (path := find_file(name, folder))}
        if len(others) > 1:
            both = " and ".join(sorted(others)[:2])
            return FoundPicture(name, problem=f"{name!r} may be {both}: write {self._setting}")
        if others:
            return FoundPicture(others.pop(), exists=True)
        path = find_file(last_part(name), self._folders[0]) if self._by_last_part else None
        if path is None:
            return FoundPicture(FileName.advised(os.path.join(self._folders[0], name), self._advice(name)))
        return FoundPicture(path, _BY_LAST_PART, exists=True)

    def _advice(self, name: str) -> str:
        """Return what a message adds about a name that leads nowhere."""
        looked = f"it was looked for in {', '.join(map(str, self._folders))}"
        if self._by_last_part:
            return f"{looked}, and {last_part(name)!r} in {self._folders[0]}"
        near = next((str(folder) for folder in self._folders if find_file(last_part(name), folder)), "FOLDER")
        setting = self._setting.replace("FOLDER", near)
        return f"{looked}; write {setting}, where the last part of a name is enough"


def remote_picture(name: str, images: str) -> FoundPicture:
    """Return where an image is in a folder of S3. A name that leads out of the folder is replaced by its last part."""
    inside = posixpath.normpath(name.replace("\\", "/"))
    if posixpath.isabs(inside) or inside.split("/")[0] == ".." or _DRIVE.match(inside):
        return FoundPicture(f"{images.rstrip('/')}/{last_part(name)}", _BY_LAST_PART)
    return FoundPicture(f"{images.rstrip('/')}/{posixpath.normpath(name)}")


def refuse_shared(names: Sequence[str | None], pictures: Sequence[FoundPicture | None]) -> list[FoundPicture | None]:
    """Return the pictures of a document's names, with a problem for each that was found for two of the names.

    A name without its folders may lead to the picture of another name. That none is taken for another is known only
    once all names of a document are found.
    """
    owners: dict[str, dict[str, bool]] = {}
    for name, picture in zip(names, pictures, strict=True):
        if name is not None and picture is not None and not picture.problem:
            owners.setdefault(_any_spelling(picture), {})[name] = picture.remark == _BY_LAST_PART
    checked: list[FoundPicture | None] = []
    for name, picture in zip(names, pictures, strict=True):
        found = owners.get(_any_spelling(picture), {}) if picture is not None else {}
        other = next((other for other in found if other != name), None)
        if name is not None and picture is not None and name in found and other is not None and any(found.values()):
            both = f"{name!r} and {other!r} would both be {picture.path}: rename one of the images"
            picture = FoundPicture(name, problem=both)
        checked.append(picture)
    return checked


def _any_spelling(picture: FoundPicture) -> str:
    """Return a picture's path, the same for every spelling of a URL."""
    if "://" not in picture.path:
        return str(picture.path)
    return unicodedata.normalize("NFC", unquote(picture.path.replace("\\", "/")))


def named_folder(written: str, beside: Path) -> Path:
    """Return the folder that a spec names: from the current directory, or beside an annotation file or its folder."""
    folder = Path(written).expanduser()
    nearby = (beside / folder, beside.parent / folder)
    return next((place for place in (folder.absolute(), *nearby) if place.is_dir()), folder.absolute())


def usual_folders(document: Path) -> list[Path]:
    """Return the folders in which an annotation file's images usually are, its own first.

    Beside `annotations/instances_train2017.json` there is `train2017/` or `images/train2017/`.
    """
    beside, split = document.parent, document.stem.rpartition("_")[2]
    root = beside.parent if beside.name.lower().startswith("annotation") else beside
    names = (split, document.stem, f"images/{split}", f"images/{document.stem}", "images", "data", "")
    return list(dict.fromkeys([beside, *(root / name for name in names)]))
