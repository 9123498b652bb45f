"""Recognition of folder layouts, shared by all sources that read folders, so that no two accept the same one."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from regraft.contracts import Raw
from regraft.data.file_kinds import (
    IMAGE_SUFFIXES,
    SYSTEM,
    TABLE_SUFFIXES,
    has_dicom_magic,
    is_dicom,
    is_image,
    is_unread_image,
    leftover_kind,
    suffix_of,
    unread_kind,
)
from regraft.data.json_shape import json_shape
from regraft.data.splits import SPLIT_NAMES, plain_name
from regraft.data.yolo_layout import is_yolo_data

_MASK_FOLDER = re.compile(r"masks?$|^(masks?|annotations?|labels?|segmentations?|ground_?truth|gt)", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"images?$|^(images?|imgs?|pictures?|photos?)", re.IGNORECASE)
BROKEN_LINK = "is a link to a file that does not exist: fetch the file (git annex get, dvc pull), or remove the link"
BROKEN_LINKS = "links to files that do not exist"
DICOMDIR = "DICOMDIR files, which are indexes of folders"
"""The kind of the index that an export from an archive of medical images has."""
_DICOM_DEPTH = 6
"""Levels of folders that are searched for DICOM: an archive's export has patient, study, series and image."""
_JSONS = "*.[jJ][sS][oO][nN]"
_SPLIT_DOCUMENT = re.compile(r"(?:.*[_.-])?(?P<split>[a-z]+(?:\d{4})?)", re.IGNORECASE)
"""The name of a COCO document of one split, such as `instances_train2017` or `train`."""
_MOST_DOCUMENTS = 20
"""JSON files of a folder that are opened to see which hold boxes."""
_SMALL = 1 << 20
"""Bytes of a JSON document that is opened to see what it is."""
_NAMES_FILES = re.compile(
    r"^(file_?name|file|image|img|picture|photo|audio|sound|wav|path|image_?(id|name|path|file))$", re.IGNORECASE
)
_MASK_NAME = re.compile(r"(?P<stem>.+)[_-](mask|gt|seg|label|matte|labels?ids)$", re.IGNORECASE)


def find_coco_document(folder: Path) -> Path | None:
    """Return the COCO document of a folder of images, or None: the one with Roboflow's name, or the only .json."""
    named = folder / "_annotations.coco.json"
    if named.is_file():
        return named
    found = [file for file in sorted(folder.glob(_JSONS)) if not leftover_kind(file.name)]
    if len(found) != 1 or json_shape(found[0]) != "document" or _is_beside_classes(found[0]):
        return None
    return found[0]


def find_coco_splits(folder: Path) -> dict[str, Path]:
    """Return the COCO documents of a folder by the names of their splits; empty where it has none.

    Either each split has a folder with its images and its document, as Roboflow writes them, or the documents of all
    splits are in the folder or its `annotations`, as COCO has them, and the only folders of images are those of splits.
    """
    inside = subfolders(folder)
    parts = [part for part in inside if plain_name(part.name) in SPLIT_NAMES]
    parts.sort(key=lambda part: SPLIT_NAMES.index(plain_name(part.name)))
    splits = {part.name: found for part in parts if (found := find_coco_document(part)) is not None}
    others = [part for part in inside if part not in parts and not _IMAGE_FOLDER.search(part.name)]
    if splits or any(map(_has_image, others)):
        return splits
    return _documents_of_splits(folder / "annotations") or _documents_of_splits(folder)


def _documents_of_splits(folder: Path) -> dict[str, Path]:
    """Return the COCO documents directly in a folder that are named after splits; of two of a split, that of boxes."""
    found: dict[str, Path] = {}
    documents = [file for file in sorted(folder.glob(_JSONS))[:_MOST_DOCUMENTS] if json_shape(file) == "document"]
    for file in sorted(documents, key=lambda file: file.name.startswith("instances")):
        match = _SPLIT_DOCUMENT.fullmatch(file.stem)
        if match and plain_name(match["split"]) in SPLIT_NAMES:
            found[match["split"]] = file
    return dict(sorted(found.items()))


def coco_hint(folder: Path) -> str:
    """Return where the COCO documents of a folder are, where it is not clear which is meant; empty for none."""
    for place in (folder, folder / "annotations", folder.parent / "annotations"):
        small = (file for file in sorted(place.glob(_JSONS))[:_MOST_DOCUMENTS] if not leftover_kind(file.name))
        if found := [file for file in small if json_shape(file) == "document"]:
            names = " or ".join(str(file) for file in found[:3])
            return f"to read COCO's boxes, give one document: {names}"
    return ""


def is_saved_dataset(folder: Path) -> bool:
    """Return whether the `datasets` library saved this folder."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def find_mask_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks inside a folder, by their names; None unless there is one of each."""
    inside = [entry for entry in subfolders(folder) if _has_image(entry)]
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

    Images two folders deep count too: such a folder is probably one level too high, and the source reports that. So do
    images of formats that are not read, and links to images that were not fetched.
    """
    return has_images(folder) and not _has_other_layout(folder)


def has_images(folder: Path) -> bool:
    """Return whether a folder has images that are read or not: in folders up to two deep, or itself without any."""
    inside = subfolders(folder)
    candidates = [candidate for one in inside for candidate in (one, *subfolders(one))] or [folder]
    return any(_has_image(candidate, unread=True) for candidate in candidates)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders inside a folder, sorted by name, without hidden ones and those that systems leave."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # a folder may have millions of files, so files are not opened
        names = [entry.name for entry in entries if entry.is_dir() and not leftover_kind(entry.name)]
    return [folder / name for name in sorted(names)]


def list_images(folder: Path) -> Iterator[Path]:
    """Yield the images directly in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_image(entry)]
    yield from (folder / name for name in sorted(names))


@dataclass(frozen=True)
class FolderContents:
    """What is directly in a folder of images, each part sorted by name; a subclass lists files of another kind."""

    folder: Path
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """The files that are read."""
    broken: list[str] = field(default_factory=list)
    """Links that lead nowhere."""
    others: list[tuple[str, str]] = field(default_factory=list)
    """What is passed over, with its kind."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """List a folder. Files without a suffix are opened to see what they are."""
        found = cls(folder)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found._add(entry)
        return found

    def _add(self, entry: os.DirEntry[str]) -> None:
        if kind := leftover_kind(entry.name):
            self.others.append((entry.name, kind))
        elif entry.is_dir():
            self.folders.append(entry.name)
        elif not entry.is_file():
            if entry.is_symlink():
                self.broken.append(entry.name)
            else:
                self.others.append((entry.name, "pipes and devices"))
        elif self._is_read(entry):
            self.files.append(entry.name)
        else:
            self.others.append((entry.name, self._kind(entry)))

    def _is_read(self, entry: os.DirEntry[str]) -> bool:
        return is_image(entry)

    def _kind(self, entry: os.DirEntry[str]) -> str:
        if suffix_of(entry.name) not in TABLE_SUFFIXES:
            return unread_kind(entry)
        return f"tables beside images (to read one, write {self._advice(entry.name)})"

    def _advice(self, name: str) -> str:
        return table_advice(self.folder / name)

    def passed_over(self) -> Iterator[Raw]:
        """Yield what is no row: links that lead nowhere are bad rows, all else is counted by kind."""
        for name in self.broken:
            yield Raw({}, str(self.folder / name), BROKEN_LINK)
        for name, kind in self.others:
            yield Raw({}, str(self.folder / name), ignored=kind)

    def described(self) -> str:
        """Return the number of what is passed over of each kind, as text."""
        kinds = Counter(kind for _, kind in self.others if kind != SYSTEM)
        kinds.update({BROKEN_LINKS: len(self.broken)} if self.broken else {})
        return "; ".join(f"{kind}: {count:,}" for kind, count in kinds.items()) or "nothing"

    def label_hint(self) -> str:
        """Return how to read the labels of files without class folders from a table beside them; empty for none."""
        tables = [name for name, _ in self.others if suffix_of(name) in TABLE_SUFFIXES and not leftover_kind(name)]
        return f"to read labels from a table, write {self._advice(tables[0])}" if tables else ""


def table_advice(table: Path, column: str = "image") -> str:
    """Return what a spec needs to read a table of files, as text."""
    return f"train: {table.parent.name}/{table.name}, columns: {{{column}: {_file_column(table)}}}"


def _file_column(table: Path) -> str:
    """Return the column of a table that probably names files; `file_name`, as `datasets` calls it, if none is found."""
    try:
        with table.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(1 << 12)
        names = list(json.loads(line)) if suffix_of(table.name) == ".jsonl" else re.split("[,;\t]", line)
    except (OSError, ValueError, TypeError, RecursionError):
        names = []
    return next(
        (name for name in (name.strip().strip('"') for name in names) if _NAMES_FILES.search(name)), "file_name"
    )


def dicom_entries(folder: Path, depth: int | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder in order, each with the kind for which it is passed over; DICOM files with none.

    `depth` limits the levels of folders, and then files of other kinds are not opened; None reads all.
    """
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        kind: str | None = leftover_kind(entry.name)
        if not kind and entry.is_dir():
            if depth is None or depth > 1:
                yield from dicom_entries(folder / entry.name, None if depth is None else depth - 1)
            continue
        kind = kind or _kind_beside_dicom(entry, every=depth is None)
        if kind is not None:
            yield folder / entry.name, kind


def _kind_beside_dicom(entry: os.DirEntry[str], *, every: bool) -> str | None:
    """Return the kind for which an entry is passed over; empty for DICOM, None for others unless `every` is asked."""
    if not entry.is_file():
        return BROKEN_LINKS if entry.is_symlink() else "pipes and devices"
    if entry.name.upper() == "DICOMDIR":
        return DICOMDIR
    if is_dicom(entry) or (every and has_dicom_magic(entry)):
        return ""
    return unread_kind(entry) if every else None


def has_dicom(folder: Path) -> bool:
    """Return whether there are DICOM files below a folder, or the index of some."""
    return any(kind in ("", DICOMDIR) for _, kind in dicom_entries(folder, _DICOM_DEPTH))


def _has_image(folder: Path, *, unread: bool = False) -> bool:
    """Return whether an image is in a folder; with `unread`, also one that is not read or a link that leads nowhere."""
    with os.scandir(folder) as entries:
        return any(
            _is_image(entry) or (unread and not leftover_kind(entry.name) and _is_lost_image(entry))
            for entry in entries
        )


def _is_image(entry: os.DirEntry[str]) -> bool:
    return not leftover_kind(entry.name) and entry.is_file() and is_image(entry)


def _is_lost_image(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is an image of a format that is not read, or a link to an image that is not there."""
    if leftover_kind(entry.name):
        return False
    if entry.is_file():
        return is_unread_image(entry.name)
    return entry.is_symlink() and not entry.is_dir() and suffix_of(entry.name) in IMAGE_SUFFIXES


def _has_document(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(".xml") and not leftover_kind(entry.name) for entry in entries)


def _is_beside_classes(document: Path) -> bool:
    """Return whether a JSON document is no COCO, and beside class folders of images: settings, or names of classes."""
    try:
        if document.stat().st_size > _SMALL or not any(map(_has_image, subfolders(document.parent))):
            return False
        content = json.loads(document.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return not isinstance(content, dict) or not {"annotations", "categories"} & set(content)


def _has_other_layout(folder: Path) -> bool:
    """Return whether the folder has the layout of COCO, `datasets`, masks, YOLO, or VOC with its XML documents."""
    if find_coco_document(folder) or is_saved_dataset(folder) or find_mask_folders(folder) or has_masks_beside(folder):
        return True
    if is_yolo_data(folder) or find_coco_splits(folder):
        return True
    return any(_has_document(candidate) for candidate in (folder, *subfolders(folder)))
