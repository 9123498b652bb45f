"""A folder of class folders: each image's label is the folder it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.folders import class_folders, images_in, subfolders
from regraft.errors import DataError


class Images(Source):
    """Images in folders that are named after their labels; the rows are `image` and `label`."""

    def accepts(self, path: Path) -> bool:
        """A folder with folders in it that has no other source's layout."""
        return path.is_dir() and class_folders(path)

    def read(self, path: Path) -> Iterator[Raw]:
        """Images by class folder and name; files that are no images (by their suffix) are passed over."""
        if not path.is_dir():
            raise DataError("is a file; a folder of class folders is wanted", str(path))
        folders = subfolders(path)
        if not folders:
            raise DataError("holds no class folders: one for each label, with its images in it", str(path))
        for folder in folders:
            if deeper := next(iter(subfolders(folder)), None):
                raise DataError(
                    f"is a folder inside the class folder {folder.name!r}: images lie directly in it; if "
                    f"{folder.name!r} is a part of the data and not a label, name {folder} itself",
                    str(deeper),
                )
        for stray in images_in(path):
            yield Raw({}, str(stray), "lies beside the class folders: move it into one of them")
        for folder in folders:
            for image in images_in(folder):
                yield Raw({"image": str(image), "label": folder.name}, str(image))
