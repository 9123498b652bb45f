"""Layouts of YOLO data: where the images, labels and class names of a folder are."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import yaml

from regraft.contracts import label_text
from regraft.data.file_kinds import IMAGE_SUFFIXES
from regraft.data.splits import SPLIT_NAMES, select_split
from regraft.errors import DataError
from regraft.store.bounded_yaml import parse_as_written

YAML_SUFFIXES = (".yaml", ".yml")
_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels")
"""Files with a class name on each line, as LabelImg, Label Studio, CVAT and Roboflow write them."""
_TEXTS, _YAMLS = "*.[tT][xX][tT]", "*.[yY]*[mM][lL]"
_LARGEST = 1 << 20
_BLANK_LINES = 1000
"""Lines of a file that are searched for the first that is not blank."""
_LINE = re.compile(rb"\s*\d+(\.0)?(\s+[+-]?[0-9.]+([eE][+-]?\d+)?){4,}\s*")
_CVAT = re.compile(r"obj_(\w+)_data")


@dataclass(frozen=True)
class YoloLayout:
    """One split of YOLO data."""

    images: tuple[Path, ...]
    """Folders of images, or lists of them (.txt)."""
    names: dict[int, str] | None
    """Class names by number; None where no file gives them."""
    keypoints: int = 0
    """Numbers behind each box that are key points."""
    root: Path = Path()
    """The folder at which names in lists begin."""


def is_yolo_data(path: Path) -> bool:
    """Return whether a path is YOLO's: a description in YAML, or a folder with one or with labels beside images."""
    if not path.is_dir():
        return path.suffix.lower() in YAML_SUFFIXES and path.is_file() and _describes(path)
    described = _description(path)
    if described is not None and (_leads_somewhere(described) or not _has_class_folders(path)):
        return True
    if (path / "obj.names").is_file():
        return True
    if (path / "images").is_dir() and (path / "labels").is_dir():
        return any((path / "labels").rglob(_TEXTS)) and not _holds_masks(path / "labels")
    if (path / "train" / "images").is_dir() and (path / "train" / "labels").is_dir():
        return not _holds_masks(path / "train" / "labels")
    return _has_labels_beside(path)


def find_layout(path: Path, part: str | None) -> YoloLayout:
    """Return the split `part` of YOLO data; null is the only one. Raises DataError."""
    described = path if not path.is_dir() else _description(path)
    if described is not None:
        document = _read_yaml(described)
        images = select_split(_described_splits(document, described), part, path)
        return YoloLayout(images, _names(document, described), _keypoints(document), described.parent)
    images = select_split(_plain_splits(path), part, path)
    names = _names_beside(path)
    above = next((found for folder in _above(path) if (found := _description(folder))), None)
    if names is not None or above is None:
        return YoloLayout(images, names, root=path)
    document = _read_yaml(above)  # the folder is one split of a folder that is described
    return YoloLayout(images, _names(document, above), _keypoints(document), path)


def first_filled_line(file: Path) -> bytes:
    """Return the first line of a file that is not blank; empty where it has none."""
    with file.open("rb") as lines:
        found = (line.strip() for line in islice(_read_lines(lines), _BLANK_LINES))
        return next(filter(None, found), b"")


def is_label_line(line: bytes) -> bool:
    """Return whether a line looks like one of YOLO's labels: a class number, and four numbers or more."""
    return _LINE.fullmatch(line.removeprefix(codecs.BOM_UTF8)) is not None


def read_names(file: Path) -> list[str]:
    """Return the lines of a file of names. Raises DataError where it is in another encoding than UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("is not text in UTF-8: save it in this encoding", str(file)) from None


def label_file(image: Path) -> Path:
    """Return the file of an image's labels: in `labels` where the image is in `images`, else beside it."""
    parts = list(image.parent.parts)
    places = [number for number, name in enumerate(parts) if name == "images"]
    beside = _as_written(image.with_suffix(".txt"))
    if places:
        parts[places[-1]] = "labels"
        found = Path(*parts) / f"{image.stem}.txt"
        if found.parent.is_dir() or not beside.is_file():
            return _as_written(found)
    return beside


def _as_written(file: Path) -> Path:
    """Return a file, or the one of this name whose suffix is written in capitals, as old programs write it."""
    if file.is_file():
        return file
    others = (file.with_suffix(suffix) for suffix in (file.suffix.upper(), file.suffix.title()))
    return next((other for other in others if other.is_file()), file)


def has_labels(folder: Path) -> bool:
    """Return whether a folder stands in `images`, or is it, and its labels in `labels` beside that."""
    return "images" in folder.parts and label_file(folder / "x.png").parent.is_dir()


def _description(folder: Path) -> Path | None:
    """Return the YAML file in a folder that describes YOLO data; `data.yaml` before others."""
    found = [entry for entry in sorted(folder.glob(_YAMLS)) if entry.suffix.lower() in YAML_SUFFIXES]
    found.sort(key=lambda entry: YAML_SUFFIXES.index(entry.suffix.lower()))
    found.sort(key=lambda entry: entry.stem.lower() not in ("data", "dataset"))
    return next((entry for entry in found if _describes(entry)), None)


def _describes(path: Path) -> bool:
    try:
        document = _read_yaml(path)
    except DataError:
        return False
    return "names" in document and any(split in document for split in (*SPLIT_NAMES, "path"))


def _leads_somewhere(description: Path) -> bool:
    """Return whether a description names a folder or list that is there."""
    try:
        splits = _described_splits(_read_yaml(description), description)
    except DataError:
        return False
    return any(place.exists() for places in splits.values() for place in places)


def _has_class_folders(path: Path) -> bool:
    """Return whether a folder has folders of images that are no parts of a YOLO layout."""
    own = {"images", "labels", *SPLIT_NAMES}
    folders = [entry for entry in path.iterdir() if entry.is_dir() and entry.name not in own]
    return any(entry.suffix.lower() in IMAGE_SUFFIXES for folder in folders for entry in folder.iterdir())


def _holds_masks(labels: Path) -> bool:
    """Return whether a folder `labels` has images and no file of YOLO's lines."""
    if any(is_label_line(first_filled_line(entry)) for entry in labels.rglob(_TEXTS) if entry.is_file()):
        return False
    return any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in labels.rglob("*"))


def _read_lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(1 << 16):
        yield line


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return a description. Texts are kept as they are written: `no` is the name of a class, too."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise DataError("is too large for the description of YOLO data", str(path))
        document = parse_as_written(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"is not readable as YAML: {' '.join(str(error).split())[:200]}", str(path)) from None
    if not isinstance(document, dict):
        raise DataError("is no description of YOLO data: names, train and val are wanted", str(path))
    return document


def _described_splits(document: dict[str, Any], path: Path) -> dict[str, tuple[Path, ...]]:
    """Return the images of every split that a description names and that is there."""
    splits: dict[str, tuple[Path, ...]] = {}
    for name in SPLIT_NAMES:
        written = document.get(name)
        items = written if isinstance(written, list) else [written]
        if texts := [item for item in items if isinstance(item, str) and item]:
            splits[name] = tuple(_place(item, document.get("path"), path) for item in texts)
    if not splits:
        raise DataError("names no images: write train and val, as in train: images/train", str(path))
    return splits


def _place(written: str, root: object, path: Path) -> Path:
    """Return the folder or list of images that a description names, wherever it was written.

    Roboflow writes `../train/images` for the folder beside the file, and notebooks write absolute paths of theirs.
    """
    text = written.replace("\\", "/")
    base = Path(str(root).replace("\\", "/")).expanduser() if isinstance(root, str) and root else Path()
    inside = text.lstrip("/")
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    tail = "/".join(text.rstrip("/").split("/")[-2:])
    places = (path.parent / base / text, path.parent / text, path.parent / inside, path.parent / tail)
    return next((place for place in places if place.exists()), places[0])


def _plain_splits(path: Path) -> dict[str, tuple[Path, ...]]:
    """Return the images of every split of a folder without a description; one of no name where it has none."""
    folders = {entry.name: entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    splits: dict[str, tuple[Path, ...]]
    splits = {found[1]: (folder,) for name, folder in folders.items() if (found := _CVAT.fullmatch(name))}
    if splits:
        return splits
    if "images" in folders:
        inside = {entry.name: (entry,) for entry in sorted(folders["images"].iterdir()) if entry.is_dir()}
        splits = {name: place for name, place in inside.items() if name in SPLIT_NAMES}
        return splits or {"": (folders["images"],)}
    splits = {
        name: (folder / "images",)
        for name, folder in folders.items()
        if name in SPLIT_NAMES and (folder / "images").is_dir()
    }
    return splits or {"": (path,)}


def _names(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the class names of a description. Raises DataError where they are no list or mapping of texts."""
    written = document.get("names")
    pairs = list(written.items()) if isinstance(written, dict) else list(enumerate(written or ()))
    names: dict[int, str] = {}
    for number, name in pairs if isinstance(written, dict | list) else [("", None)]:
        if not isinstance(name, str) or not str(number).isdecimal():
            raise DataError("names is no list of class names: write names: [cat, dog], or {0: cat, 1: dog}", str(path))
        names[int(number)] = label_text(name)
    count = document.get("nc")
    if isinstance(count, str) and count.isdecimal() and int(count) != len(names):
        raise DataError(f"nc is {count}, and there are {len(names)} names: correct one of them", str(path))
    return names


def _above(path: Path) -> tuple[Path, ...]:
    """Return the folders above one of images that may say what its classes are, the nearest first."""
    inside = next((folder for folder in (path, *path.parents) if folder.name == "images"), None)
    return (path.parent, path.parent.parent, *([inside.parent] if inside else []))


def _names_beside(path: Path) -> dict[int, str] | None:
    """Return the class names in a file of one name a line, in a folder or above it; None where there is none."""
    for folder in (path, *_above(path)):
        for file in (_as_written(folder / name) for name in _NAME_FILES):
            if file.is_file() and file.stat().st_size <= _LARGEST:
                names = {number: line.strip() for number, line in enumerate(read_names(file)) if line.strip()}
                if names:
                    return names
    return None


def _keypoints(document: dict[str, Any]) -> int:
    """Return how many numbers of key points follow each box, as `kpt_shape: [17, 3]` says."""
    shape = document.get("kpt_shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, str) and n.isdecimal() for n in shape):
        return 0
    return int(shape[0]) * int(shape[1])


def _has_labels_beside(path: Path) -> bool:
    """Return whether some image of a folder has a file of YOLO's lines beside it, of the same name."""
    texts = sorted(path.glob(_TEXTS))
    stems = {entry.stem for entry in path.iterdir() if entry.suffix.lower() != ".txt"} if texts else set()
    for entry in texts:
        if entry.stem in stems and (line := first_filled_line(entry)):
            return is_label_line(line)
    return False
