"""Source of YOLO folders: boxes on images, one file of lines for each image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from regraft.columns.files.file_names import find_file
from regraft.contracts import Raw, Source
from regraft.data.file_kinds import unread_kind
from regraft.data.folders import FolderContents, list_images, subfolders
from regraft.data.splits import SPLIT_NAMES
from regraft.data.yolo_layout import (
    YoloLayout,
    find_layout,
    first_filled_line,
    has_labels,
    is_label_line,
    is_yolo_data,
    label_file,
    read_names,
)
from regraft.errors import DataError
from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.box_readings import BoxForm, around, in_shares

_NO_NAMES = "no data.yaml and no classes.txt names the classes: labels are their numbers"
_NO_LABELS = "an image without a file of labels is taken as one without objects"
_POLYGONS = "polygons are read as the box around them"
_REPEATED = "lines that repeat another of their image are read once"
_KEYPOINTS = "key points are left out, and their boxes read"
_BESIDE_SPLITS = "images beside the folders of splits, which belong to no split"
_FARTHEST = 1.5
"""Largest share that can still be a rounding error or an object that is cut by the border."""
_LIST_FILES = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "notes.txt", "readme.txt")


class Yolo(Source):
    """YOLO folders (Ultralytics, Roboflow, CVAT, Label Studio, LabelImg): images, and a .txt of labels for each.

    A line is a class number and a box, centre and size as shares of the image, or a polygon. Labels are in `labels/`
    where images are in `images/`, or else beside the images. Class names come from `data.yaml` or `classes.txt`. The
    columns are `image`, `boxes` ([x, y, width, height] in pixels) and `labels`; `data.train: folder#train` reads the
    images of one split. An image without lines is a row without boxes; where no image has any, rows are images alone.
    """

    part: str | None = None
    """The split: `train`, `val` (or `valid`) or `test`; null where there is only one."""
    boxes: BoxForm = "cxcywh-shares"
    """Meaning of a line's four numbers: the centre, width and height as shares of the image (cxcywh-shares); the
    others, xywh, xyxy, cxcywh, shares and xyxy-shares, are of other tools."""

    def accepts(self, path: Path) -> bool:
        """Accept a folder with a description in YAML, or with labels for its images, and such a description."""
        return is_yolo_data(path)

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by the images' names; a wrong line, and labels without an image, are bad rows."""
        if not is_yolo_data(path) and not has_labels(path):
            raise DataError(
                "holds no YOLO data: a data.yaml with names, train and val is wanted, or a folder images/ beside "
                "labels/ with a .txt for each image",
                str(path),
            )
        layout = find_layout(path, self.part)
        for place in layout.images:
            if not place.exists():
                raise DataError(f"does not exist, though {path} names it: correct its path", str(place))
            found = list(_listed(place, layout.root) if place.is_file() else _inside(place))
            images = [image for image in found if isinstance(image, Path)]
            seen = {label_file(image) for image in images}
            labelled = any(file.is_file() for file in seen)
            yield from (raw for raw in found if isinstance(raw, Raw))
            for image in images:
                yield self._row(image, layout) if labelled else Raw({"image": str(image)}, str(image))
            if place.is_dir():
                yield from _unmatched(place, seen)
                yield from _beside_splits(place)

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return where labels are looked for, for images of which none has any."""
        file = label_file(Path(str(raw.values.get("image", ""))))
        return "" if "boxes" in raw.values else f"no image has a file of labels: it is looked for as {file}"

    def _row(self, image: Path, layout: YoloLayout) -> Raw:
        values = {"image": str(image)}
        file = label_file(image)
        try:
            text = file.read_text(encoding="utf-8-sig") if file.is_file() else None
        except UnicodeDecodeError:
            return Raw(values, str(file), "is not text: lines of a class number and four numbers are wanted")
        boxes, labels, remarks, read = [], [], set(), set[tuple[float | str, ...]]()
        for number, line in enumerate((text or "").splitlines(), 1):
            if not line.strip():
                continue
            try:
                label, box, remark = self._line(line, layout)
            except ValueError as error:
                return Raw(values, f"{file}:{number}", str(error))
            if (label, *box) in read:
                remarks.add(_REPEATED)
                continue
            read.add((label, *box))
            boxes.append(box)
            labels.append(label)
            remarks.add(remark)
        found = AnnotatedBoxes.of(boxes, self.boxes, None, next(filter(None, sorted(remarks)), None))
        remark = _NO_LABELS if text is None else _NO_NAMES if layout.names is None and labels else ""
        return Raw({**values, "boxes": found, "labels": labels}, str(image), remark=remark)

    def _line(self, line: str, layout: YoloLayout) -> tuple[str, list[float], str]:
        """Return a line's label and box, and a remark about it. Raises ValueError."""
        words = line.split()
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            raise ValueError(f"is {line.strip()[:80]!r}; a class number and a box or polygon are wanted") from None
        if not all(map(math.isfinite, numbers)):
            raise ValueError("has a number that is not finite")
        label, shape = _label(numbers[0], layout), numbers[1:]
        posed = bool(layout.keypoints) and len(shape) == 4 + layout.keypoints
        shape = shape[:4] if posed else shape  # key points have marks of visibility, which are no shares
        if in_shares(self.boxes) and shape and not -0.5 <= min(shape) <= max(shape) <= _FARTHEST:
            wrong = next(
                word for word, number in zip(words[1:], shape, strict=False) if not -0.5 <= number <= _FARTHEST
            )
            raise ValueError(
                f"holds {wrong}, and numbers are shares of the image, 0 to 1: if they are pixels, write data.format: "
                "{type: yolo, boxes: cxcywh}, or xywh, or xyxy"
            )
        if len(shape) == 4:
            return label, shape, _KEYPOINTS if posed else ""
        if len(shape) >= 6 and len(shape) % 2 == 0:
            return label, around(list(zip(shape[::2], shape[1::2], strict=True)), self.boxes), _POLYGONS
        score = ": is the sixth a score? Leave it out" if len(shape) == 5 else ""
        raise ValueError(
            f"has {len(numbers)} numbers; wanted are 5 (class, centre x, centre y, width, height) or a class and the "
            f"points of a polygon, x and y of each{score}"
        )


def _label(number: float, layout: YoloLayout) -> str:
    """Return the name of a class. Raises ValueError for a number that has none."""
    if number < 0 or not number.is_integer():
        raise ValueError(f"begins with {number:g}; a class number is wanted, from 0")
    if layout.names is None:
        return str(int(number))
    if int(number) not in layout.names:
        known = ", ".join(f"{key} {name}" for key, name in list(layout.names.items())[:12])
        raise ValueError(f"names class {int(number)}, and classes are {known}")
    return layout.names[int(number)]


def _inside(folder: Path) -> Iterator[Path | Raw]:
    """Yield the images of a folder and the folders in it, and the files that are passed over."""
    contents = FolderContents.read(folder)
    images = [folder / name for name in contents.files]
    yield from images
    beside = any(label_file(image).parent == folder for image in images[:1])
    yield from (raw for raw in contents.passed_over() if not (beside and raw.where.lower().endswith(".txt")))
    for name in contents.folders:
        if name != "labels":
            yield from _inside(folder / name)


def _listed(file: Path, root: Path) -> Iterator[Path | Raw]:
    """Yield the images that a list names; relative names begin at the list's folder, or at that of the description."""
    for number, line in enumerate(read_names(file), 1):
        if not (name := line.strip()):
            continue
        shorter = name.partition("/")[2]  # CVAT begins every name with a folder `data/` that is not there
        found = next((path for folder in (file.parent, root) if (path := find_file(name, folder))), None)
        found = found or (find_file(shorter, root) if shorter else None)
        if found is None:
            yield Raw({}, f"{file}:{number}", f"there is no image {name!r} in {file.parent}")
        else:
            yield Path(found)


def _unmatched(place: Path, seen: set[Path]) -> Iterator[Raw]:
    """Yield the files of labels that have no image, as bad rows, and the others that are passed over."""
    folders = {label_file(folder / "x.png").parent for folder in (place, *subfolders(place))}
    folders |= {file.parent for file in seen}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        for entry in sorted(folder.iterdir()):
            if not entry.is_file() or entry in seen or entry.name.startswith("."):
                continue
            text = entry.suffix.lower() == ".txt" and entry.name.lower() not in _LIST_FILES
            if text and (not (line := first_filled_line(entry)) or is_label_line(line)):
                yield Raw({}, str(entry), "holds labels of an image that is not there: add the image, or move it away")
            elif text or "labels" in folder.parts[-2:]:
                yield Raw({}, str(entry), ignored=unread_kind(entry))


def _beside_splits(place: Path) -> Iterator[Raw]:
    """Yield the images that are in the folder above a split's, as passed over."""
    if place.parent.name == "images" and place.name in SPLIT_NAMES:
        yield from (Raw({}, str(image), ignored=_BESIDE_SPLITS) for image in list_images(place.parent))
