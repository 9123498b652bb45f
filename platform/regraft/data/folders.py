"""Recognition of folder layouts, shared by all sources that read folders, so that no two accept the same one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from regraft.data.json_shape import json_shape

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Suffixes of image files."""
DICOM_SUFFIXES = (".dcm", ".dicom")
"""Suffixes of DICOM files, which may also have none."""
_MASK_FOLDER = re.compile(r"masks?$|^(masks?|annotations?|labels?|segmentations?|ground_?truth|gt)", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"images?$|^(images?|imgs?|pictures?|photos?)", re.IGNORECASE)
_MASK_NAME = re.compile(r"(?P<stem>.+)[_-](mask|gt|seg|label|matte|labels?ids)$", re.IGNORECASE)


def find_coco_document(folder: Path) -> Path | None:
    """Return the COCO document of a folder of images, or None: the one with Roboflow's name, or the only .json."""
    named = folder / "_annotations.coco.json"
    if named.is_file():
        return named
    found = sorted(folder.glob("*.json"))
    return found[0] if len(found) == 1 and json_shape(found[0]) == "document" else None


def is_saved_dataset(folder: Path) -> bool:
    """Return whether the `datasets` library saved this folder."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def find_mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks inside a folder, by their names; None unless there is one of each."""
    inside = [entry for entry in subfolders(folder) if _has_file(entry, IMAGE_SUFFIXES)]
    masks = [entry for entry in inside if _MASK_FOLDER.search(entry.name)]
    pictures = [entry for entry in inside if entry not in masks and _IMAGE_FOLDER.search(entry.name)]
    return (pictures[0], masks[0]) if len(masks) == len(pictures) == 1 else None


def has_masks_beside(folder: Path) -> bool:
    """Return whether masks are beside their images (`name_mask` beside `name`) in the folder or a subfolder."""
    for place in (folder, *subfolders(folder)):
        stems = {image.stem for image in list_images(place)}
        if any((marked := image_stem(stem)) is not None and marked in stems for stem in stems):
            return True
    return False


def image_stem(stem: str) -> str | None:
    """Return the stem of the image that a mask belongs to, by the mask's stem; None unless it is marked as a mask's."""
    found = _MASK_NAME.fullmatch(stem)
    return found["stem"] if found else None


def is_image_folder(folder: Path) -> bool:
    """Return whether a folder has images, or class folders of images, in the layout of no other source.

    Images two folders deep count too: such a folder is probably one level too high, and the source reports that.
    """
    inside = subfolders(folder)
    candidates = [candidate for one in inside for candidate in (one, *subfolders(one))] or [folder]
    return any(_has_file(candidate, IMAGE_SUFFIXES) for candidate in candidates) and not _has_other_layout(folder)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside a folder, sorted by name, without hidden ones."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a folder may have millions of files, so files are not opened
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def list_images(folder: Path) -> Iterator[Path]:
    """Yield the images directly in a folder (by their suffixes), sorted by name."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _has_suffix(entry, IMAGE_SUFFIXES)]
    yield from (folder / name for name in sorted(names))


def find_dicom_files(folder: Path, depth: int | None = None) -> Iterator[Path]:
    """Yield DICOM files below a folder in order, by suffix or by the magic number at their beginning.

    `depth` limits the levels of folders; None reads all.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth is None or depth > 1:
                yield from find_dicom_files(entry, None if depth is None else depth - 1)
        elif entry.suffix.lower() in DICOM_SUFFIXES or (not entry.suffix and _has_dicom_magic(entry)):
            yield entry


def _has_file(folder: Path, suffixes: tuple[str, ...]) -> bool:
    with os.scandir(folder) as entries:
        return any(_has_suffix(entry, suffixes) for entry in entries)


def _has_suffix(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> bool:
    return entry.name.lower().endswith(suffixes) and not entry.name.startswith(".") and entry.is_file()


def _has_dicom_magic(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _has_other_layout(folder: Path) -> bool:
    """Return whether the folder has the layout of COCO, `datasets`, masks, or VOC with its XML documents."""
    if find_coco_document(folder) or is_saved_dataset(folder) or find_mask_folders(folder) or has_masks_beside(folder):
        return True
    return any(_has_file(candidate, (".xml",)) for candidate in (folder, *subfolders(folder)))
