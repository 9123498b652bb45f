"""Source of COCO's detection JSON: boxes on images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from regraft.contracts import Raw, Source
from regraft.data.annotation_tools import document_of_a_tool
from regraft.data.folders import find_coco_document, find_coco_splits
from regraft.data.json_shape import json_shape, open_text
from regraft.data.picture_finder import (
    FoundPicture,
    PictureFinder,
    named_folder,
    refuse_shared,
    remote_picture,
    usual_folders,
)
from regraft.data.splits import select_split
from regraft.errors import DataError
from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.box_readings import BoxEvidence, BoxForm, around, in_shares
from regraft.media.pixels.picture_sizes import Extent, declared_size, picture_size
from regraft.media.pixels.run_lengths import box_of_runs

_LISTS = ("images", "annotations", "categories")
_IDS = ("image_id", "category_id")
_LEFT_OUT = {"iscrowd": "annotations of crowds (iscrowd: 1)", "ignore": "annotations to be ignored (ignore: 1)"}
_WHOLE = re.compile(r"(0|[1-9][0-9]{0,30})(\.0)?")
_UNSET = ("", "0", "0.0", "false", "no", "none", "null")
_LARGEST_SIDE = 1 << 63
_HEADERS_READ = 500
"""Images without a declared size whose headers are read, to see what boxes mean."""
_POLYGONS = "annotations without a bbox are read as the box around their polygons"
_MASKS = "annotations without a bbox are read as the box around their masks"
_REPEATED = "annotations repeat another of their image: the object is there twice"


class Coco(Source):
    """COCO detection (Lin et al., 2014): a JSON document with images, annotations and categories.

    The columns are `image`, `boxes` ([x, y, width, height] in pixels) and `labels` (category names); an image without
    annotations is a row without boxes. Annotations of crowds (`iscrowd: 1`) are left out and counted, since they do not
    mark one object, and so are those to be ignored (`ignore: 1`). An annotation without `bbox` is the box around its
    polygons or its mask. Where `width` and `height` are
    declared, boxes are placed on the image by them; an image of another size is a bad row. Of a folder with a folder or
    a document for each split, `data.train: folder#train` reads one split.
    """

    later: ClassVar[frozenset[str]] = frozenset({"boxes", "part"})
    suffixes = (".json",)
    part: str | None = None
    """The split of a folder that has several: `train`, `val` (or `valid`) or `test`; null where there is only one."""
    images: str | None = None
    """Folder of the images, or its s3:// URL; null: the folder of the JSON file, or that of COCO's layout beside it. A
    relative path begins at the current directory, or else at the JSON file. An image is looked for by its whole name,
    and then by its last part."""
    boxes: BoxForm | None = None
    """Meaning of the four numbers of a bbox; null is COCO's own, x, y, width, height in pixels (xywh), and a file whose
    boxes contradict it is refused. xyxy: two corners; cxcywh: the centre, width and height; shares, xyxy-shares,
    cxcywh-shares: the same as shares of the image's width and height."""

    def accepts(self, path: Path) -> bool:
        """Accept a .json that is one document, and a folder with `_annotations.coco.json`, or one for each split."""
        if path.is_dir():
            return find_coco_document(path) is not None or bool(find_coco_splits(path))
        return super().accepts(path) and json_shape(path) == "document"

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows in the order of `images`. The document is read into memory, since boxes are separate from images.

        An image with a wrong annotation is a bad row, and so is an annotation of an image that does not exist.
        """
        path = self._chosen(path)
        document = _document(path)
        names = {item.id: item.text for item in _named(document["categories"], "category", "name", path)}
        images = list(_named(document["images"], "image", "file_name", path))
        parse = partial(_annotation, names=names, path=path, form=self.boxes or "xywh")
        notes = [parse(item) for item in document["annotations"]]
        annotations: dict[Any, list[_Annotation]] = {item.id: [] for item in images}
        for note in notes:
            annotations.get(note.image, []).append(note)
        find = self._finder(path)
        found_pictures = [None if item.text is None else find(item.text) for item in images]
        pictures = refuse_shared([item.text for item in images], found_pictures)
        if self.boxes is None:
            _refuse_doubtful(images, pictures, annotations, path)
        for note in notes:
            if note.image not in annotations:
                absent = f"image_id is {note.image!r}, which is not the id of any of the images"
                yield Raw({}, note.where, note.problem or absent)
            elif note.left_out:
                yield Raw({}, note.where, ignored=note.left_out)
        for item, picture in zip(images, pictures, strict=True):
            yield self._row(item, picture, annotations[item.id], path)

    def _chosen(self, path: Path) -> Path:
        """Return the document of a path and the split that is read. Raises DataError."""
        only = find_coco_document(path) if path.is_dir() else path
        splits = find_coco_splits(path) if path.is_dir() and (only is None or self.part) else {}
        if splits:
            return select_split(splits, self.part, path)
        if only is None:
            raise DataError("holds no _annotations.coco.json and no other COCO document", str(path))
        if self.part:
            raise DataError(f"is one document without splits; {self.part!r} is written: leave it out", str(path))
        return only

    def _row(self, item: _Item, picture: FoundPicture | None, notes: Sequence[_Annotation], path: Path) -> Raw:
        where = f"{path}:image {item.id}"
        if picture is None:
            return Raw({}, where, f"the image with id {item.id!r} has no file_name")
        if picture.problem or item.problem:
            return Raw({}, where, picture.problem or item.problem)
        if wrong := next((note for note in notes if note.problem), None):
            return Raw({"image": picture.path}, wrong.where, wrong.problem)
        objects = [note for note in notes if not note.left_out]
        repeated = len({(tuple(note.box), note.label) for note in objects}) < len(objects)
        remark = next((note.around for note in objects if note.around), _REPEATED if repeated else None)
        boxes = AnnotatedBoxes.of((note.box for note in objects), self.boxes or "xywh", item.size, remark)
        labels = [note.label for note in objects]
        return Raw({"image": picture.path, "boxes": boxes, "labels": labels}, where, remark=picture.remark)

    def _finder(self, path: Path) -> Any:
        """Return the function that finds an image by its name."""
        if self.images and "://" in self.images:
            return partial(remote_picture, images=self.images)
        folders = [named_folder(self.images, path.parent)] if self.images else usual_folders(path)
        return PictureFinder(
            folders, "data.format: {type: coco, images: FOLDER}", by_last_part=self.images is not None
        ).find


@dataclass(frozen=True)
class _Item:
    """An image or a category."""

    id: int | str | float
    text: str | None
    """Its name; None for an image that has none."""
    size: Extent | None = None
    problem: str | None = None


@dataclass(frozen=True)
class _Annotation:
    """One annotation; `problem` is the message if it is wrong."""

    image: Any
    box: list[Any]
    label: str
    where: str
    left_out: str = ""
    """Kind of the annotations that it is left out with, as a plural; empty for one that is read."""
    around: str = ""
    """A remark where the box is that around its polygons or its mask."""
    problem: str | None = None


def _document(path: Path) -> dict[str, list[Any]]:
    try:
        with open_text(path) as file:
            document = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", str(path)) from None
    missing = [key for key in _LISTS if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if missing:
        known = document.keys() if isinstance(document, dict) else set()
        other = document_of_a_tool(known)
        raise DataError(
            f"is {other}"
            if other
            else f"has no list {', '.join(map(repr, missing))}; COCO has {', '.join(_LISTS)}. If it holds rows, one "
            "object on each line or in a list, write data.format: jsonl",
            str(path),
        )
    return dict(document)


def _named(items: list[Any], what: str, key: str, path: Path) -> Iterator[_Item]:
    """Yield each item's id and the text under `key`. Raises DataError when annotations cannot refer to it by its id."""
    found: dict[Any, str | None] = {}
    for position, item in enumerate(items, 1):
        where = f"{path}:{what} {position}"
        if not isinstance(item, dict) or item.get("id") is None:
            raise DataError(f"the {what} has no id", where)
        number, text = _identifier(item["id"]), item.get(key)
        if number is None:
            raise DataError(f"the {what}'s id is {item['id']!r:.60}; a number or a text is wanted", where)
        if isinstance(text, int) and not isinstance(text, bool) and what == "category":
            text = str(text)
        text = text if isinstance(text, str) and text else None
        if text is None and what == "category":
            raise DataError(f"the {what} with id {number!r} has no {key}", where)
        if number in found:
            raise DataError(f"the id {number!r} is used twice, for {found[number]!r} and {text!r}", where)
        found[number] = text
        size, problem = _declared(item) if what == "image" else (None, None)
        yield _Item(number, text, size, problem)


def _identifier(written: object) -> int | str | float | None:
    """Return an id, the same for 7, 7.0 and "7", as different tools write it; None for what is no id."""
    if isinstance(written, bool) or not isinstance(written, int | float | str):
        return None
    if isinstance(written, float):
        return None if not math.isfinite(written) else int(written) if written.is_integer() else written
    if isinstance(written, str):
        return int(written.removesuffix(".0")) if _WHOLE.fullmatch(written) else written
    return written


def _declared(item: Mapping[str, Any]) -> tuple[Extent | None, str | None]:
    """Return the declared size of an image, or None and the message if it is nonsense."""
    try:
        return declared_size(item.get("width"), item.get("height")), None
    except ValueError as error:
        return None, str(error)


def _annotation(note: Any, *, names: Mapping[Any, str | None], path: Path, form: BoxForm) -> _Annotation:
    """Parse an annotation; `names` are the categories' names by id."""
    number = note.get("id", "without id") if isinstance(note, dict) else note
    where = f"{path}:annotation {number}"
    if not isinstance(note, dict):
        return _Annotation(None, [], "", where, problem="the annotation is not a JSON object")
    image, category = (_identifier(note.get(key)) for key in _IDS)
    label = names.get(category)
    if image is None:
        absent = f"image_id is {note.get('image_id')!r:.60}, which is not the id of any of the images"
        return _Annotation(None, [], "", where, problem=absent)
    if label is None:
        problem = f"category_id is {note.get('category_id')!r:.60}, which is not the id of any of the categories"
        return _Annotation(image, [], "", where, problem=problem)
    if kind := next((kind for mark, kind in _LEFT_OUT.items() if _is_set(note.get(mark))), ""):
        return _Annotation(image, [], label, where, left_out=kind)
    box = note.get("bbox")
    if box in (None, []):
        if points := _polygon_points(note.get("segmentation")):
            return _Annotation(image, around(points, form), label, where, around=_POLYGONS)
        if marked := box_of_runs(note.get("segmentation")):
            return _Annotation(image, _box_in(marked, form, note["segmentation"]["size"]), label, where, around=_MASKS)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        problem = f"bbox is {box!r:.200}; four numbers are wanted: x, y, width, height in pixels"
        return _Annotation(image, [], label, where, problem=problem)
    return _Annotation(image, box, label, where)


def _box_in(marked: Sequence[float], form: BoxForm, size: Sequence[int]) -> list[float]:
    """Return a box in pixels of a mask of that size (height, width) as the form writes it."""
    unit = (size[1], size[0]) if in_shares(form) else (1, 1)
    left, top, across, down = marked
    return around([(x / unit[0], y / unit[1]) for x, y in ((left, top), (left + across, top + down))], form)


def _is_set(mark: object) -> bool:
    """Return whether a mark is set: some tools write 0 and false as texts."""
    return bool(mark) and str(mark).strip().lower() not in _UNSET


def _is_number(side: object) -> bool:
    """Return whether a side is a number that pixels can be counted with."""
    if isinstance(side, int) and not isinstance(side, bool):
        return abs(side) < _LARGEST_SIDE
    return isinstance(side, float) and math.isfinite(side)


def _polygon_points(segmentation: object) -> list[tuple[float, float]]:
    """Return the points of polygons [[x1, y1, x2, y2, ...], ...]; none for run lengths or anything else."""
    polygons = segmentation if isinstance(segmentation, list) else []
    if polygons and all(map(_is_number, polygons)):
        polygons = [polygons]
    points: list[tuple[float, float]] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_number, polygon)):
            return []
        points += zip(polygon[::2], polygon[1::2], strict=True)
    return points


def _refuse_doubtful(
    images: Sequence[_Item],
    pictures: Sequence[FoundPicture | None],
    annotations: Mapping[Any, Sequence[_Annotation]],
    path: Path,
) -> None:
    """Raise DataError where the boxes of the whole file are probably no x, y, width, height in pixels."""
    evidence, headers = BoxEvidence(), 0
    for item, picture in zip(images, pictures, strict=True):
        boxes = [note.box for note in annotations[item.id] if note.box and not note.problem]
        size = item.size
        if size is None and boxes and picture is not None and picture.exists and headers < _HEADERS_READ:
            headers += 1
            size = _seen_size(picture.path)
        for box in boxes:
            evidence.add(box, size, str(item.text))
    if doubt := evidence.doubt("coco"):
        raise DataError(doubt, str(path))


def _seen_size(path: str) -> Extent | None:
    """Return the size of an upright image; None for one that cannot be read, or whose file is elsewhere."""
    try:
        return picture_size(path).upright
    except DataError:
        return None
