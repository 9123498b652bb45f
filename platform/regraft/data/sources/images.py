"""Source of image folders: the label of an image is the name of its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.class_folders import ClassFolders
from regraft.data.file_kinds import IMAGE_SUFFIXES, has_image_magic, is_image, is_unread_image, unread_kind
from regraft.data.folders import FolderContents, coco_hint, find_coco_document, is_image_folder
from regraft.errors import DataError

_FOLDERS = ClassFolders(FolderContents, "image", "images")


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
        yield from _FOLDERS.rows(path)


def _single(path: Path) -> Raw:
    """Return the row of one image. Raises DataError for a file of another kind."""
    if not (path.name.lower().endswith(IMAGE_SUFFIXES) or (path.is_file() and has_image_magic(path))):
        advice = "give an image or a folder of class folders"
        raise DataError(f"is a file, not an image that is read, but one of {unread_kind(path)}; {advice}", str(path))
    return Raw({"image": str(path)}, str(path))
