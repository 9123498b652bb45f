"""Boxes on images as COCO's detection JSON writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regraft.contracts import Raw, Source
from regraft.data.json_shape import coco_file, json_shape, open_text
from regraft.errors import DataError

_LISTS = ("images", "annotations", "categories")


class Coco(Source):
    """COCO detection (Lin et al., 2014): a JSON document with images, annotations and categories.

    The rows are `image`, `boxes` ([x, y, width, height] in pixels) and `labels` (category names); an image without
    annotations is a row without boxes. Annotations of crowds (`iscrowd: 1`) are left out, as they hold no one object.
    """

    suffixes = (".json",)
    images: str | None = None
    """Folder of the images; null where they lie beside the JSON file. Relative: from the current directory."""

    def accepts(self, path: Path) -> bool:
        """A .json that is one document, or a folder that holds `_annotations.coco.json` or one such document."""
        if path.is_dir():
            return coco_file(path) is not None
        return super().accepts(path) and json_shape(path) == "document"

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows in the order of `images`. The whole document is held while it is read: boxes stand apart from images."""
        if path.is_dir():
            found = coco_file(path)
            if found is None:
                raise DataError("holds no _annotations.coco.json and no other COCO document", str(path))
            path = found
        document = _document(path)
        folder = Path(self.images).expanduser().absolute() if self.images else path.parent
        names = _by_id(document["categories"], "category", "name", path)
        files = _by_id(document["images"], "image", "file_name", path)
        boxes: dict[Any, list[tuple[list[Any], str]]] = {number: [] for number in files}
        for note in document["annotations"]:
            _annotate(note, boxes, names, path)
        for number, name in files.items():
            image = folder / name
            if not image.resolve().is_relative_to(folder.resolve()):
                raise DataError(f"image {number}: {name!r} leads out of the folder {folder}", f"{path}:image {number}")
            sides, labels = [box for box, _ in boxes[number]], [label for _, label in boxes[number]]
            yield Raw({"image": str(image), "boxes": sides, "labels": labels}, f"{path}:image {number}")


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


def _by_id(items: list[Any], what: str, key: str, path: Path) -> dict[Any, str]:
    """The text under `key` of each item by the item's id."""
    found: dict[Any, str] = {}
    for place, item in enumerate(items, 1):
        where = f"{path}:{what} {place}"
        if not isinstance(item, dict) or not isinstance(item.get("id"), int | str):
            raise DataError(f"the {what} has no id", where)
        if not isinstance(item.get(key), str) or not item[key]:
            raise DataError(f"the {what} with id {item['id']!r} has no {key}", where)
        if item["id"] in found:
            raise DataError(f"the id {item['id']!r} stands for {found[item['id']]!r} and for {item[key]!r}", where)
        found[item["id"]] = item[key]
    return found


def _annotate(note: Any, boxes: dict[Any, list[tuple[list[Any], str]]], names: dict[Any, str], path: Path) -> None:
    number = note.get("id", "without id") if isinstance(note, dict) else note
    where = f"{path}:annotation {number}"
    if not isinstance(note, dict):
        raise DataError("the annotation is no object", where)
    for key, known in (("image_id", boxes), ("category_id", names)):
        if not isinstance(note.get(key), int | str) or note[key] not in known:
            what = "images" if key == "image_id" else "categories"
            raise DataError(f"{key} is {note.get(key)!r}, which is not the id of any of the {what}", where)
    if note.get("iscrowd"):
        return
    box = note.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or any(isinstance(side, bool | str) for side in box):
        raise DataError(f"bbox is {box!r}; four numbers are wanted: x, y, width, height in pixels", where)
    boxes[note["image_id"]].append((box, names[note["category_id"]]))
