"""Source of COCO's detection JSON: boxes on images."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.contracts import Raw, Source
from regraft.data.folders import find_coco_document
from regraft.data.json_shape import json_shape, open_text
from regraft.errors import DataError

_LISTS = ("images", "annotations", "categories")
_IDS = ("image_id", "category_id")


class Coco(Source):
    """COCO detection (Lin et al., 2014): a JSON document with images, annotations and categories.

    The columns are `image`, `boxes` ([x, y, width, height] in pixels) and `labels` (category names); an image without
    annotations is a row without boxes. Annotations of crowds (`iscrowd: 1`) are left out, since they do not mark one
    object.
    """

    suffixes = (".json",)
    images: str | None = None
    """Folder of the images, or its s3:// URL; null: the folder of the JSON file. A relative path begins at the current
    directory."""

    def accepts(self, path: Path) -> bool:
        """Accept a .json that is one document, and a folder with `_annotations.coco.json` or one such document."""
        if path.is_dir():
            return find_coco_document(path) is not None
        return super().accepts(path) and json_shape(path) == "document"

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows in the order of `images`. The document is read into memory, since boxes are separate from images.

        An image with a wrong annotation is a bad row, and so is an annotation of an image that does not exist.
        """
        if path.is_dir():
            found = find_coco_document(path)
            if found is None:
                raise DataError("holds no _annotations.coco.json and no other COCO document", str(path))
            path = found
        document = _document(path)
        names = {item.id: item.text for item in _named(document["categories"], "category", "name", path)}
        images = list(_named(document["images"], "image", "file_name", path))
        annotations: dict[Any, list[_Annotation]] = {item.id: [] for item in images}
        for item in document["annotations"]:
            annotation = _annotation(item, names, path)
            if annotation.image in annotations:
                annotations[annotation.image].append(annotation)
            else:
                absent = f"image_id is {annotation.image!r}, which is not the id of any of the images"
                yield Raw({}, annotation.where, annotation.problem or absent)
        for item in images:
            yield self._row(item, annotations[item.id], path)

    def _row(self, item: _Item, annotations: list[_Annotation], path: Path) -> Raw:
        where = f"{path}:image {item.id}"
        if item.text is None:
            return Raw({}, where, f"the image with id {item.id!r} has no file_name")
        image = self._image(item.text, path.parent)
        if image is None:
            return Raw({}, where, f"{item.text!r} is outside of the folder {self.images or path.parent}")
        if wrong := next((annotation for annotation in annotations if annotation.problem), None):
            return Raw({"image": image}, wrong.where, wrong.problem)
        objects = [annotation for annotation in annotations if not annotation.crowd]
        boxes, labels = [item.box for item in objects], [item.label for item in objects]
        return Raw({"image": image, "boxes": boxes, "labels": labels}, where)

    def _image(self, name: str, beside: Path) -> str | None:
        """Return an image's path or URL; None if it is outside the images' folder."""
        if posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] == "..":
            return None
        if self.images and "://" in self.images:
            return f"{self.images.rstrip('/')}/{posixpath.normpath(name)}"
        folder = Path(self.images).expanduser().absolute() if self.images else beside
        return str(folder / name)


@dataclass(frozen=True)
class _Item:
    """An image or a category."""

    id: int | str
    text: str | None
    """Its name; None for an image that has none."""


@dataclass(frozen=True)
class _Annotation:
    """One annotation; `problem` is the message if it is wrong."""

    image: Any
    box: list[Any]
    label: str
    where: str
    crowd: bool = False
    problem: str | None = None


def _document(path: Path) -> dict[str, list[Any]]:
    try:
        with open_text(path) as file:
            document = json.load(file)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", str(path)) from None
    missing = [key for key in _LISTS if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if missing:
        raise DataError(
            f"has no list {', '.join(map(repr, missing))}; COCO has {', '.join(_LISTS)}. If it holds rows, one object "
            "on each line or in a list, write data.format: jsonl",
            str(path),
        )
    return dict(document)


def _named(items: list[Any], what: str, key: str, path: Path) -> Iterator[_Item]:
    """Yield each item's id and the text under `key`. Raises DataError when annotations cannot refer to it by its id."""
    found: dict[Any, str | None] = {}
    for position, item in enumerate(items, 1):
        where = f"{path}:{what} {position}"
        if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
            raise DataError(f"the {what} has no id", where)
        number, text = item["id"], item.get(key)
        text = text if isinstance(text, str) and text else None
        if text is None and what == "category":
            raise DataError(f"the {what} with id {number!r} has no {key}", where)
        if number in found:
            raise DataError(f"the id {number!r} is used twice, for {found[number]!r} and {text!r}", where)
        found[number] = text
        yield _Item(number, text)


def _annotation(note: Any, names: Mapping[Any, str | None], path: Path) -> _Annotation:
    """Parse an annotation; `names` are the categories' names by id."""
    number = note.get("id", "without id") if isinstance(note, dict) else note
    where = f"{path}:annotation {number}"
    if not isinstance(note, dict):
        return _Annotation(None, [], "", where, problem="the annotation is not a JSON object")
    image, category = (note.get(key) if isinstance(note.get(key), int | str) else None for key in _IDS)
    label = names.get(category)
    if label is None:
        problem = f"category_id is {note.get('category_id')!r}, which is not the id of any of the categories"
        return _Annotation(image, [], "", where, problem=problem)
    if note.get("iscrowd"):
        return _Annotation(image, [], label, where, crowd=True)
    box = note.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or any(isinstance(side, bool | str) for side in box):
        problem = f"bbox is {box!r}; four numbers are wanted: x, y, width, height in pixels"
        return _Annotation(image, [], label, where, problem=problem)
    return _Annotation(image, box, label, where)
