"""Source of image folders: the label of an image is the name of its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.folders import IMAGE_SUFFIXES, is_image_folder, list_images, subfolders
from regraft.errors import DataError


class Images(Source):
    """Images in folders that are named after their labels; the columns are `image` and `label`.

    A folder of images without class folders, or a single image, gives rows without a label, for prediction.
    """

    suffixes = IMAGE_SUFFIXES

    def accepts(self, path: Path) -> bool:
        """Accept an image, and a folder of images or class folders that has no other source's layout."""
        return is_image_folder(path) if path.is_dir() else super().accepts(path)

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield images in the order of class folder and name; files without an image's suffix are skipped."""
        if not path.is_dir():
            if not super().accepts(path):
                raise DataError("is a file, not an image; give an image or a folder of class folders", str(path))
            yield Raw({"image": str(path)}, str(path))
            return
        folders = subfolders(path)
        for folder in folders:
            if deeper := next(iter(subfolders(folder)), None):
                raise DataError(
                    f"is a folder inside the class folder {folder.name!r}: images must be directly in it; if "
                    f"{folder.name!r} is a part of the data and not a label, give {folder} as the path",
                    str(deeper),
                )
        loose = list_images(path)
        if folders:
            problem = "is outside the class folders: move it into one of them"
            yield from (Raw({}, str(image), problem) for image in loose)
        elif (first := next(loose, None)) is None:
            raise DataError("holds no class folders: one for each label, with its images in it", str(path))
        else:
            yield from (Raw({"image": str(image)}, str(image)) for image in (first, *loose))
        for folder in folders:
            for image in list_images(folder):
                yield Raw({"image": str(image), "label": folder.name}, str(image))
