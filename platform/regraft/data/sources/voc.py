"""Source of PASCAL VOC: boxes on images, one XML document for each image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from regraft.columns.files.file_names import find_file, last_part
from regraft.contracts import Raw, Source
from regraft.data.file_kinds import IMAGE_SUFFIXES
from regraft.errors import DataError
from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.box_readings import around, described, looks_like_shares, written_box
from regraft.media.pixels.picture_sizes import Extent, declared_size

_POLYGONS = "objects without <bndbox> are read as the box around their polygon"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Voc(Source):
    """PASCAL VOC (Everingham et al., 2010): a folder with Annotations/, JPEGImages/ and ImageSets/Main/<split>.txt.

    A folder with XML documents beside their images is read too, and a single document. The columns are `image`, `boxes`
    ([x, y, width, height] in pixels) and `labels` (the objects' names); `data.train: folder#train` reads the images of
    one split. Corners are integer pixels counted from 1, both inside the box, as VOC defines them: (1, 1, 4, 4) becomes
    [0, 0, 4, 4]. Corners on one line or column are an annotator's mistake, not a box one pixel wide: such a box has no
    area, for which the row is refused. An object without corners is the box around its polygon. Where <size> is
    declared, boxes are placed on the image by it; an image of another size is a bad row.
    """

    later: ClassVar[frozenset[str]] = frozenset({"boxes"})
    suffixes = (".xml",)
    part: str | None = None
    """The split: images named in ImageSets/Main/<part>.txt, in that order; null reads every document."""
    difficult: Literal["skip", "keep"] = "skip"
    """skip: leave out objects marked as difficult, which VOC's own evaluation ignores. keep: read them."""
    images: str | None = None
    """Folder of the images; null: JPEGImages beside Annotations, else beside each document."""
    boxes: Literal["xyxy", "xyxy-shares"] | None = None
    """Meaning of the corners; null is VOC's own, pixels (xyxy), and a document with corners of 0 to 1 is a bad row.
    xyxy-shares: shares of the image's width and height."""

    def accepts(self, path: Path) -> bool:
        """Accept an .xml, and a folder with some, itself or in Annotations/."""
        return any(_documents(path)) if path.is_dir() else super().accepts(path)

    def splits_in(self, path: Path) -> tuple[str, ...]:
        """Return the lists of ImageSets/Main."""
        if self.part is not None or not path.is_dir():
            return ()
        return tuple(sorted(file.stem for file in (path / "ImageSets" / "Main").glob("*.txt")))

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield a row for each document, by name or in the order of the split."""
        if not path.is_dir():
            chosen = [path]
        elif self.part is None:
            chosen = sorted(_documents(path))
        else:
            chosen = [_folder_of(path) / f"{name}.xml" for name in _split(path, self.part)]
        if not chosen:
            raise DataError("holds no .xml, itself or in Annotations/", str(path))
        for document in chosen:
            yield from self._rows(document)

    def _rows(self, document: Path) -> Iterator[Raw]:
        """Yield the objects that are passed over, and the row of a document."""
        found = self._parsed(document)
        if isinstance(found, Raw):
            yield found
            return
        objects, size, image = found
        kept = [item for item in objects if item.passed_over(self.difficult) is None]
        for item in objects:
            if kind := item.passed_over(self.difficult):
                yield Raw({}, str(document), ignored=f"objects that are marked as {kind}")
        if doubt := self._doubt(kept, size):
            yield Raw({"image": str(image)}, str(document), doubt)
            return
        if self.boxes == "xyxy-shares":
            boxes = AnnotatedBoxes.of((item.corners for item in kept), "xyxy-shares", size)
        else:
            boxes = AnnotatedBoxes.of((_in_pixels(item) for item in kept), "xywh", size)
        boxes.remark = _POLYGONS if any(item.polygon for item in kept) else None
        yield Raw({"image": str(image), "boxes": boxes, "labels": [item.name for item in kept]}, str(document))

    def _doubt(self, objects: Sequence[_Object], size: Extent | None) -> str | None:
        """Return the message for corners that are probably shares of the image, or None."""
        corners = [item.corners for item in objects]
        if self.boxes is not None or not looks_like_shares(corners) or all(x % 1 == 0 for box in corners for x in box):
            return None
        extent = size or (100, 100)
        pixels, share = (described(corners[0], form, extent) for form in ("xyxy", "xyxy-shares"))
        at = f"{'an image' if size else 'a picture, say,'} of {extent[0]:g} x {extent[1]:g} pixels"
        return (
            f"no corner is above 1: {written_box(corners[0])} in {at} is {pixels}; or {share}. Write what is meant: "
            "data.format: {type: voc, boxes: xyxy}, or data.format: {type: voc, boxes: xyxy-shares}"
        )

    def _parsed(self, document: Path) -> Raw | tuple[list[_Object], Extent | None, Path]:
        """Return the objects, the declared size and the image of a document, or the row that says what is wrong."""
        where = str(document)
        try:
            root = fromstring(document.read_bytes(), forbid_dtd=True)
        except FileNotFoundError:
            return Raw({}, where, f"does not exist, though the split {self.part!r} names it")
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            if not super().accepts(document):  # a file without the suffix of XML is of another kind
                raise DataError(f"is not readable as XML: {_parser_message(error)}", where) from None
            return Raw({}, where, f"is not readable as XML: {_parser_message(error)}")
        if root.tag != "annotation":
            return Raw(
                {}, where, f"is not a VOC document: it holds <{root.tag}>, and <annotation> is wanted{_way(root)}"
            )
        try:
            objects = [_object(item, number) for number, item in enumerate(root.findall("object"), 1)]
            return objects, _size(root), self._image(document, root)
        except ValueError as error:
            return Raw({}, where, str(error))

    def _image(self, document: Path, root: Element) -> Path:
        """Return the image with the document's name, or else the one that it names: renamed files keep an old name.

        Folders in that name are dropped: they are those of the annotator's machine, and must not lead out of this one.
        """
        folder = self._images_of(document)
        named = last_part((root.findtext("filename") or "").strip())
        for suffix in (Path(named).suffix, *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
            if suffix and (image := folder / f"{document.stem}{suffix}").is_file():
                return image
        if named and (found := find_file(named, folder)):
            return Path(found)
        for suffix in IMAGE_SUFFIXES:  # a name with letters that another system writes otherwise
            if not document.stem.isascii() and (found := find_file(f"{document.stem}{suffix}", folder)):
                return Path(found)
        also = f" and no {named!r}, which it names" if named else ""
        raise ValueError(f"{folder} holds no image {document.stem!r}{also}: put it there, or write data.format.images")

    def _images_of(self, document: Path) -> Path:
        if self.images:
            return Path(self.images).expanduser().absolute()
        beside = document.parent.parent / "JPEGImages"
        return beside if document.parent.name == "Annotations" and beside.is_dir() else document.parent


def _folder_of(path: Path) -> Path:
    return path / "Annotations" if (path / "Annotations").is_dir() else path


def _documents(path: Path) -> Iterator[Path]:
    return (entry for entry in _folder_of(path).glob("*.[xX][mM][lL]") if not entry.name.startswith("."))


def _split(path: Path, part: str) -> list[str]:
    """Return the names in a split's file. In that of one class (`cat_train.txt`), the mark after each is not read."""
    folder = path / "ImageSets" / "Main"
    known = {entry.stem: entry for entry in sorted(folder.glob("*.[tT][xX][tT]"))}
    if part not in known:
        near = get_close_matches(part, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = f"splits are {', '.join(list(known)[:12])}" if known else "ImageSets/Main holds no .txt"
        raise DataError(f"has no split {part!r}{hint}: {allowed}", str(path))
    try:
        lines = known[part].read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("is not text in UTF-8: save it in this encoding", str(known[part])) from None
    return [line.split()[0] for line in lines if line.strip()]


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of a document."""

    name: str
    corners: list[float]
    """Left, top, right and bottom, as they are written."""
    difficult: bool = False
    polygon: bool = False
    """Whether the corners are those around a polygon."""
    deleted: bool = False

    def passed_over(self, difficult: str) -> str | None:
        """Return what the object is marked as, where it is left out."""
        return "deleted" if self.deleted else "difficult" if self.difficult and difficult == "skip" else None


def _object(item: Element, number: int) -> _Object:
    """Return an object. Raises ValueError for a wrong one."""
    name = (item.findtext("name") or "").strip()
    what = f"object {number} ({name})" if name else f"object {number}"
    if not name:
        raise ValueError(f"{what} has no <name>")
    if _has_mark(item, "deleted"):
        return _Object(name, [], deleted=True)
    difficult = _has_mark(item, "difficult")
    if item.find("bndbox") is None and item.find("robndbox") is not None:
        raise ValueError(f"{what} is a rotated box, <robndbox>; an upright <bndbox> is wanted: export it so")
    if item.find("bndbox") is None and (points := _polygon(item, what)):
        return _Object(name, around(points, "xyxy"), difficult, polygon=True)
    corners = [_number(item.findtext(f"bndbox/{corner}"), f"{what}: <{corner}>") for corner in _CORNERS]
    return _Object(name, corners, difficult, polygon=False)


def _has_mark(item: Element, mark: str) -> bool:
    return (item.findtext(mark) or "").strip().lower() in ("1", "1.0", "true", "yes")


def _in_pixels(item: _Object) -> list[float]:
    """Return an object's box, whose corners are pixels counted from 1; those around a polygon are points."""
    left, top, right, bottom = item.corners
    if item.polygon:
        return [left, top, right - left, bottom - top]
    # Counting both ends would make a box whose corners are the same point one pixel wide, and a valid object.
    width, height = (end - start + 1 if end > start else end - start for start, end in ((left, right), (top, bottom)))
    return [left - 1, top - 1, width, height]


def _polygon(item: Element, what: str) -> list[tuple[float, float]]:
    """Return the points of an object's polygon, as LabelMe (<pt>) or Roboflow (<x1>, <y1>, ...) write them, or none."""
    polygon = item.find("polygon")
    if polygon is None:
        return []
    pairs = [(point.findtext("x"), point.findtext("y")) for point in polygon.findall("pt")]
    number = 1
    while not pairs or polygon.find(f"x{number}") is not None:
        pairs.append((polygon.findtext(f"x{number}"), polygon.findtext(f"y{number}")))
        number += 1
    return [(_number(x, f"{what}: x of <polygon>"), _number(y, f"{what}: y of <polygon>")) for x, y in pairs]


def _size(root: Element) -> Extent | None:
    """Return the size that a document declares, in VOC's words or LabelMe's; None where it declares none."""
    written = [(root.findtext("size/width"), root.findtext("size/height"))]
    written.append((root.findtext("imagesize/ncols"), root.findtext("imagesize/nrows")))
    width, height = next((pair for pair in written if any(pair)), (None, None))
    return declared_size((width or "").strip(), (height or "").strip())


def _way(root: Element) -> str:
    """Return what to do about an XML document of another tool."""
    return ": it is CVAT's own format, so export it as PASCAL VOC or COCO" if root.tag == "annotations" else ""


def _number(text: str | None, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} is {'missing' if text is None else repr(text[:40])}; a number of pixels is wanted")
    return value


def _parser_message(error: Exception) -> str:
    """Return the parser's message, or the kind of declaration that was refused: entities can read files or expand."""
    if isinstance(error, DefusedXmlException):
        return f"{type(error).__name__.removesuffix('Forbidden')} declarations are refused: remove them"
    return str(error)
