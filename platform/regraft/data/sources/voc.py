"""Source of PASCAL VOC: boxes on images, one XML document for each image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from regraft.contracts import Raw, Source
from regraft.data.file_kinds import IMAGE_SUFFIXES
from regraft.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Voc(Source):
    """PASCAL VOC (Everingham et al., 2010): a folder with Annotations/, JPEGImages/ and ImageSets/Main/<split>.txt.

    A folder with XML documents beside their images is read too, and a single document. The columns are `image`, `boxes`
    ([x, y, width, height] in pixels) and `labels` (the objects' names); `data.train: folder#train` reads the images of
    one split. Corners are integer pixels counted from 1, both inside the box, as VOC defines them: (1, 1, 4, 4) becomes
    [0, 0, 4, 4]. Corners on one line or column are an annotator's mistake, not a box one pixel wide: such a box has no
    area, for which the row is refused.
    """

    suffixes = (".xml",)
    part: str | None = None
    """The split: images named in ImageSets/Main/<part>.txt, in that order; null reads every document."""
    difficult: Literal["skip", "keep"] = "skip"
    """skip: leave out objects marked as difficult, which VOC's own evaluation ignores. keep: read them."""
    images: str | None = None
    """Folder of the images; null: JPEGImages beside Annotations, else beside each document."""

    def accepts(self, path: Path) -> bool:
        """Accept an .xml, and a folder with some, itself or in Annotations/."""
        return any(_documents(path)) if path.is_dir() else super().accepts(path)

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
            yield self._row(document)

    def _row(self, document: Path) -> Raw:
        where = str(document)
        try:
            root = fromstring(document.read_bytes(), forbid_dtd=True)
        except FileNotFoundError:
            return Raw({}, where, f"does not exist, though the split {self.part!r} names it")
        except (ParseError, DefusedXmlException, ValueError) as error:
            if not super().accepts(document):  # a file without the suffix of XML is of another kind
                raise DataError(f"is not readable as XML: {_parser_message(error)}", where) from None
            return Raw({}, where, f"is not readable as XML: {_parser_message(error)}")
        if root.tag != "annotation":
            return Raw({}, where, f"is not a VOC document: it holds <{root.tag}>, and <annotation> is wanted")
        try:
            objects = [_object(item, number) for number, item in enumerate(root.findall("object"), 1)]
            image = self._image(document, root)
        except ValueError as error:
            return Raw({}, where, str(error))
        kept = [(label, box) for label, box, difficult in objects if self.difficult == "keep" or not difficult]
        return Raw(
            {"image": str(image), "boxes": [box for _, box in kept], "labels": [label for label, _ in kept]}, where
        )

    def _image(self, document: Path, root: Element) -> Path:
        """Return the image with the document's name, or else the one that it names: renamed files keep an old name.

        Folders in that name are dropped: they are those of the annotator's machine, and must not lead out of this one.
        """
        folder = self._images_of(document)
        named = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
        for suffix in (Path(named).suffix, *IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):
            if suffix and (image := folder / f"{document.stem}{suffix}").is_file():
                return image
        if named and (folder / named).is_file():
            return folder / named
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
    known = sorted(entry.stem for entry in folder.glob("*.txt"))
    if part not in known:
        near = get_close_matches(part, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = f"splits are {', '.join(known[:12])}" if known else "ImageSets/Main holds no .txt"
        raise DataError(f"has no split {part!r}{hint}: {allowed}", str(path))
    lines = (folder / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _object(item: Element, number: int) -> tuple[str, list[float], bool]:
    """Return an object's name, its box, and whether it is difficult. Raises ValueError for a wrong object."""
    name = (item.findtext("name") or "").strip()
    what = f"object {number} ({name})" if name else f"object {number}"
    if not name:
        raise ValueError(f"{what} has no <name>")
    corners = [_number(item.findtext(f"bndbox/{corner}"), f"{what}: <{corner}>") for corner in _CORNERS]
    left, top, right, bottom = corners
    # Counting both ends would make a box whose corners are the same point one pixel wide, and a valid object.
    width, height = (end - start + 1 if end > start else end - start for start, end in ((left, right), (top, bottom)))
    return name, [left - 1, top - 1, width, height], (item.findtext("difficult") or "").strip() in ("1", "true")


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
