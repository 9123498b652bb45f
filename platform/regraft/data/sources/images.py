"""A folder of class folders: each image's label is the folder it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.json_shape import coco_file
from regraft.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Images(Source):
    """Images in folders that are named after their labels; the rows are `image` and `label`."""

    def accepts(self, path: Path) -> bool:
        """A folder with folders in it that is not COCO's."""
        return path.is_dir() and bool(_folders(path)) and coco_file(path) is None

    def read(self, path: Path) -> Iterator[Raw]:
        """Images by class folder and name; files that are no images (by their suffix) are passed over."""
        if not path.is_dir():
            raise DataError("is a file; a folder of class folders is wanted", str(path))
        folders = _folders(path)
        if not folders:
            raise DataError("holds no class folders: one for each label, with its images in it", str(path))
        if stray := next(_images(path), None):
            raise DataError("lies beside the class folders: move it into one of them", str(stray))
        for folder in folders:
            if deeper := next(iter(_folders(folder)), None):
                raise DataError(
                    f"is a folder inside the class folder {folder.name!r}: images lie directly in it; if "
                    f"{folder.name!r} is a part of the data and not a label, name {folder} itself",
                    str(deeper),
                )
            for image in _images(folder):
                yield Raw({"image": str(image), "label": folder.name}, str(image))


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file():
            yield entry
