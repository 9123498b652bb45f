"""Image files: each one's label is the folder it lies in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.folders import IMAGES, images_in, plain_images, subfolders
from regraft.errors import DataError


class Images(Source):
    """Images in folders that are named after their labels; the rows are `image` and `label`.

    A folder of images without class folders, or an image by itself, gives rows without a label: to predict on.
    """

    suffixes = IMAGES

    def accepts(self, path: Path) -> bool:
        """A folder with class folders or images in it that has no other source's layout; an image."""
        return plain_images(path) if path.is_dir() else super().accepts(path)

    def read(self, path: Path) -> Iterator[Raw]:
        """Images by class folder and name; files that are no images (by their suffix) are passed over."""
        if not path.is_dir():
            if not super().accepts(path):
                raise DataError("is a file and no image; a folder of class folders is wanted", str(path))
            yield Raw({"image": str(path)}, str(path))
            return
        folders = subfolders(path)
        for folder in folders:
            if deeper := next(iter(subfolders(folder)), None):
                raise DataError(
                    f"is a folder inside the class folder {folder.name!r}: images lie directly in it; if "
                    f"{folder.name!r} is a part of the data and not a label, name {folder} itself",
                    str(deeper),
                )
        loose = images_in(path)
        if folders:
            told = "lies beside the class folders: move it into one of them"
            yield from (Raw({}, str(image), told) for image in loose)
        elif (first := next(loose, None)) is None:
            raise DataError("holds no class folders: one for each label, with its images in it", str(path))
        else:
            yield from (Raw({"image": str(image)}, str(image)) for image in (first, *loose))
        for folder in folders:
            for image in images_in(folder):
                yield Raw({"image": str(image), "label": folder.name}, str(image))
