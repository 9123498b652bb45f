"""What kind of folder is this? Asked by every source that reads folders, so that no two of them take the same one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from regraft.data.json_shape import json_shape

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""What the names of images end with."""
SCANS = (".dcm", ".dicom")
"""What the names of DICOM files end with, where they end with anything."""
_MASKS = re.compile(r"masks?$|^(masks?|annotations?|labels?|segmentations?|ground_?truth|gt)", re.IGNORECASE)
_PICTURES = re.compile(r"images?$|^(images?|imgs?|pictures?|photos?)", re.IGNORECASE)
_MARK = re.compile(r"(?P<stem>.+)[_-](mask|gt|seg|label|matte|labels?ids)$", re.IGNORECASE)


def coco_file(folder: Path) -> Path | None:
    """The one COCO document of a folder of images, or None: Roboflow's name for it, or the only .json there is."""
    named = folder / "_annotations.coco.json"
    if named.is_file():
        return named
    found = sorted(folder.glob("*.json"))
    return found[0] if len(found) == 1 and json_shape(found[0]) == "document" else None


def saved_dataset(folder: Path) -> bool:
    """Whether the `datasets` library saved this folder."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks inside of one, by their names; None unless there is one of each."""
    inside = [entry for entry in subfolders(folder) if _holds(entry, IMAGES)]
    masks = [entry for entry in inside if _MASKS.search(entry.name)]
    pictures = [entry for entry in inside if entry not in masks and _PICTURES.search(entry.name)]
    return (pictures[0], masks[0]) if len(masks) == len(pictures) == 1 else None


def masks_beside(folder: Path) -> bool:
    """Whether masks lie beside their images: in the folder or in one inside of it, a `name_mask` beside a `name`."""
    for place in (folder, *subfolders(folder)):
        stems = {image.stem for image in images_in(place)}
        if any((marked := unmarked(stem)) is not None and marked in stems for stem in stems):
            return True
    return False


def unmarked(stem: str) -> str | None:
    """The name of the image that a mask of that name belongs to, or None where the name is not marked as a mask's."""
    found = _MARK.fullmatch(stem)
    return found["stem"] if found else None


def plain_images(folder: Path) -> bool:
    """Whether images lie in this folder, or in folders inside of it as in classes, and no other layout explains them.

    Images two folders deep count too: such a folder is most likely a level too high, and its source says so.
    """
    inside = subfolders(folder)
    places = [place for one in inside for place in (one, *subfolders(one))] or [folder]
    return any(_holds(place, IMAGES) for place in places) and not _explained(folder)


def subfolders(folder: Path) -> list[Path]:
    """The folders inside of a folder by their names; hidden ones are passed over."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a folder may hold millions of files: not one of them is asked for
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names)]


def images_in(folder: Path) -> Iterator[Path]:
    """The images directly in a folder (by their suffixes), by their names."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _named(entry, IMAGES)]
    yield from (folder / name for name in sorted(names))


def scans_in(folder: Path, depth: int | None = None) -> Iterator[Path]:
    """DICOM files below a folder, so many levels deep, by suffix or by the mark at their begin, in order."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth is None or depth > 1:
                yield from scans_in(entry, None if depth is None else depth - 1)
        elif entry.suffix.lower() in SCANS or (not entry.suffix and _marked(entry)):
            yield entry


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    with os.scandir(folder) as entries:
        return any(_named(entry, suffixes) for entry in entries)


def _named(entry: os.DirEntry[str], suffixes: tuple[str, ...]) -> bool:
    return entry.name.lower().endswith(suffixes) and not entry.name.startswith(".") and entry.is_file()


def _marked(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _explained(folder: Path) -> bool:
    """Whether the folder has the layout of another source: COCO, `datasets`, masks, or VOC with its XML documents."""
    if coco_file(folder) or saved_dataset(folder) or mask_folders(folder) or masks_beside(folder):
        return True
    return any(_holds(place, (".xml",)) for place in (folder, *subfolders(folder)))
