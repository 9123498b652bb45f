"""Source of image folders: the label of an image is the name of its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.file_kinds import IMAGE_SUFFIXES, has_image_magic, is_image, is_unread_image, unread_kind
from regraft.data.folders import FolderContents, coco_hint, find_coco_document, is_image_folder
from regraft.errors import DataError


class Images(Source):
    """Images in folders that are named after their labels; the columns are `image` and `label`.

    A folder of images without class folders, or a single image, gives rows without a label, for prediction. Files
    without a suffix are images by their first bytes. What is no image is counted by kind; a class folder of which
    nothing is read is a bad row, and so is a link that leads nowhere.
    """

    suffixes = IMAGE_SUFFIXES

    def accepts(self, path: Path) -> bool:
        """Accept an image, and a folder of images or class folders that has no other source's layout."""
        if path.is_dir():
            return is_image_folder(path)
        return super().accepts(path) or is_unread_image(path.name) or (path.is_file() and is_image(path))

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return how to read the labels of images without class folders from a table beside them."""
        folder = Path(str(raw.values.get("image", ""))).parent
        if (document := find_coco_document(folder)) is not None:
            return f"{document} holds COCO's boxes: give {folder} as the path"
        if "boxes" in wanted and (hint := coco_hint(folder)):
            return hint
        return FolderContents.read(folder).label_hint() if "label" not in raw.values and folder.is_dir() else ""

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield images in the order of class folder and name, and what is passed over."""
        if not path.is_dir():
            yield _single(path)
            return
        contents = FolderContents.read(path)
        classes = [FolderContents.read(path / name) for name in contents.folders]
        for part in classes:
            _refuse_deeper(part)
        yield from contents.passed_over()
        if classes:
            problem = "is outside the class folders: move it into one of them"
            yield from (Raw({}, str(path / name), problem) for name in contents.images)
        else:
            yield from _without_label(contents)
        for part in classes:
            yield from _of_class(part)


def _single(path: Path) -> Raw:
    """Return the row of one image. Raises DataError for a file of another kind."""
    if not (path.name.lower().endswith(IMAGE_SUFFIXES) or (path.is_file() and has_image_magic(path))):
        advice = "give an image or a folder of class folders"
        raise DataError(f"is a file, not an image that is read, but one of {unread_kind(path)}; {advice}", str(path))
    return Raw({"image": str(path)}, str(path))


def _without_label(contents: FolderContents) -> Iterator[Raw]:
    """Yield the images of a folder without class folders. Raises DataError when it has none."""
    if not contents.images and not contents.broken:
        message = "holds no class folders: one for each label, with its images in it; and no images that are read"
        raise DataError(f"{message}. It has {contents.described()}", str(contents.folder))
    for name in contents.images:
        image = str(contents.folder / name)
        yield Raw({"image": image}, image)


def _of_class(contents: FolderContents) -> Iterator[Raw]:
    """Yield the images of a class folder; a bad row for a folder of which nothing is read."""
    if not contents.images:
        problem = f"is a class folder of which nothing is read; it has {contents.described()}"
        yield Raw({}, str(contents.folder), f"{problem}. Add images that are read, or remove the folder")
    yield from contents.passed_over()
    folder, label = str(contents.folder), contents.folder.name
    for name in contents.images:
        image = f"{folder}{os.sep}{name}"
        yield Raw({"image": image, "label": label}, image)


def _refuse_deeper(contents: FolderContents) -> None:
    """Raise DataError when a class folder has folders in it."""
    if contents.folders:
        name = contents.folder.name
        raise DataError(
            f"is a folder inside the class folder {name!r}: images must be directly in it; if {name!r} is a part of "
            f"the data and not a label, give {contents.folder} as the path",
            str(contents.folder / contents.folders[0]),
        )
