"""`image`: a path, an s3:// URL, or the bytes of an image file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from regraft.columns.files.file_column import FileColumn
from regraft.columns.files.pixels_in_memory import holds_pixels, is_one_picture, picture_file
from regraft.contracts.column import Allowance, BadCell, MadeUp, TooLarge, column_of
from regraft.contracts.file_ref import FileBytes, UndecodedFile
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import ImageView, ShownRow
from regraft.errors import DataError
from regraft.media.pixels.check import METHOD
from regraft.media.pixels.colour_histogram import colour_histogram
from regraft.media.pixels.cost import CostlyPicture, UnknownPicture, is_plain, refuse_hungry, refuse_structure
from regraft.media.pixels.decoding import checked_apart, plain_picture
from regraft.media.pixels.format_names import may_be_read, unread_format
from regraft.media.pixels.images import (
    MEGAPIXELS,
    REQUEST_FORMATS,
    UNREADABLE,
    begins_like_picture,
    frames_remark,
    open_rgb,
    upright_size,
)
from regraft.media.pixels.picture_sizes import picture_size
from regraft.media.pixels.stated_size import stated_size

_ALLOWED = ", ".join(REQUEST_FORMATS)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Usual endings of pictures' names."""
_MEASURED = 50
"""Pictures of a sample that are opened to tell their sizes."""
_FEW = 1_000_000
"""Pixels that a doubtful picture may have whatever it states: thumbnails inside may state less."""
_UNSTATED = 4_000_000
"""Pixels that a doubtful picture may have whose size is in none of the usual places."""


class ImageColumn(FileColumn):
    """A path, an s3:// URL, or the bytes of an image file."""

    noun: ClassVar[str] = "image"
    called: ClassVar[str] = "a picture"
    bare: ClassVar[bool] = True
    plain: ClassVar[str] = "colours"
    media_type: ClassVar[str] = "image/*"
    most_bytes: ClassVar[int | None] = 1_000_000_000

    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """BadCell unless the header is that of an image of a size that is safe to decode."""
        try:
            with Image.open(file) as image:
                width, height = image.size
        except FileNotFoundError:
            raise
        except UnidentifiedImageError:
            raise BadCell(f"{name} is not an image that can be read: repair it or leave the row out") from None
        except Image.DecompressionBombError:
            raise BadCell(f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller") from None
        except UNREADABLE as error:  # raised by Pillow for headers that are cut short
            raise BadCell(f"{name} cannot be read: {error}") from None
        if width * height > (Image.MAX_IMAGE_PIXELS or width * height):
            raise BadCell(f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller")
        if not width or not height:
            raise BadCell(f"{name} has no pixels")

    def problem(self, content: bytes) -> str:
        """Return what is wrong with a picture: what it costs is looked at, then all of it is decoded."""
        return super().problem(content) or checked_apart(content)

    def method(self) -> str:
        """Return the name of the decoder."""
        return f"{type(self).__qualname__} {METHOD}"

    def remark(self, value: Any) -> str | None:
        """Return a remark about an image with several frames or pages."""
        return frames_remark(value)

    def complete(self, head: bytes) -> bool:
        """Return False where the header is not at the start (TIFF), or reading it needs the whole file (WebP)."""
        try:
            upright_size(head)
        except DataError:
            return False
        return True

    def header_is_later(self, head: bytes) -> bool:
        """Return whether the first bytes are a picture's and its size stands behind them, as TIFF has it at the end."""
        return begins_like_picture(head) and not self.complete(head)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise names that end as pictures' do, and pictures in the cells."""
        return self.files_likeness(sample, _SUFFIXES, "pictures")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return the sizes of some pictures."""
        try:
            every = [self.read_cell(cell, sample.folder) for cell in sample.cells[:_MEASURED]]
            sizes = sorted((size.width, size.height) for size in map(picture_size, map(self.for_check, every)))
        except (BadCell, DataError):
            return None
        first, middle, last = (f"{size[0]} x {size[1]}" for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
        return "pictures", first if first == last else f"{first} to {last} pixels, {middle} in the middle"

    def accept(self, value: Any) -> Any:
        """Return a path or an open file; a PIL image, or an array of pixels, as an open PNG file."""
        return io.BytesIO(picture_file(value)) if holds_pixels(value) else super().accept(value)

    def is_one(self, items: Any) -> bool:
        """Return whether a Python caller gives one picture in place of rows."""
        return is_one_picture(items) or super().is_one(items)

    def receive_body(self, body: bytes, allowance: Allowance) -> bytes:
        """Return the bytes of a picture that may be decoded."""
        if not body:
            raise BadCell("is empty; it is a picture's file")
        if not may_be_read(body):
            raise BadCell(unread_format(body, _ALLOWED))
        with _refusing(body):
            refuse_structure(body, "image in this row")
        if not is_plain(body):
            return _undecoded(body, allowance)
        read, (width, height) = _checked(body, body)
        allowance.decode(width * height, _described(width, height))
        return read

    def request_schema(self) -> dict[str, Any]:
        """Return the schema of a file in base64."""
        return {"type": "string", "contentEncoding": "base64", "description": "a picture's file in base64"}

    def example(self, position: int) -> str:
        """Return a small picture in base64."""
        return _example()

    def view(self, name: str, shown: ShownRow) -> ImageView:
        """Return a thumbnail; an empty view where the image cannot be opened any more."""
        image = displayed(shown.row[name])
        return ImageView(name, None if image is None else shown.thumbnails.add(image))

    def made_up(self, shared: MadeUp) -> bytes:
        """Return noise as a PNG file."""
        return png(np.random.default_rng(shared.number).integers(0, 256, (*shared.size, 3), dtype=np.uint8))

    def plain_input(self, value: Any) -> Sequence[float]:
        """Return the histogram of the picture's colours."""
        shares: list[float] = colour_histogram(open_rgb(value)).tolist()
        return shares


def _undecoded(body: bytes, allowance: Allowance) -> UndecodedFile:
    """Return a doubtful picture, which is decoded in another process once its turn has come, and held to its size."""
    stated = stated_size(body)
    if stated is not None:
        allowance.decode(stated[0] * stated[1], _described(*stated))
        with _refusing(body):
            refuse_hungry(body, stated[0] * stated[1])
    most = _UNSTATED if stated is None else max(_FEW, stated[0] * stated[1])

    def converted() -> bytes:
        with _refusing(body):
            plain = plain_picture(body, most)
        read, (width, height) = _checked(plain, body)
        if stated is None:
            allowance.decode(width * height, _described(width, height))
        return read

    return UndecodedFile(body, most, converted)


def _checked(plain: bytes, body: bytes) -> tuple[FileBytes, tuple[int, int]]:
    """Return a picture that is decoded in this process with its size; `body` is the file as it was sent."""
    with _refusing(body):
        read = FileBytes(plain, "in this row")
        _check_format(read)
        return read, upright_size(read)


@contextmanager
def _refusing(body: bytes) -> Iterator[None]:
    """Raise BadCell or TooLarge for what is wrong with a request's picture."""
    try:
        yield
    except UnknownPicture:
        raise BadCell(unread_format(body, _ALLOWED)) from None
    except CostlyPicture as error:
        raise TooLarge(f"is refused: {error.message}") from None
    except DataError as error:
        raise BadCell(f"is refused: {error.message}") from None


def _described(width: int, height: int) -> str:
    return f"the picture has {width} x {height} pixels"


def displayed(value: Any) -> Image.Image | None:
    """Return the upright image in RGB; None when it cannot be opened any more."""
    try:
        return open_rgb(value)
    except DataError:
        return None


def displayed_input(name: str, shown: ShownRow) -> Image.Image | None:
    """Return the image of an input column; None for another kind of column, or an image that cannot be opened."""
    return displayed(shown.row[name]) if isinstance(column_of(shown.kinds[name]), ImageColumn) else None


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return pixels (height, width[, channels]) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _check_format(body: bytes) -> None:
    """UnknownPicture for a format that is not of pictures alone; TooLarge for a picture that is not safe to decode.

    Pillow also reads some that hold programs (EPS), which another program would run, and some whose picture has
    another size than the header says (ICO, ICNS).
    """
    allowed = f"at most {MEGAPIXELS} megapixels are allowed"
    try:
        with Image.open(io.BytesIO(body), formats=REQUEST_FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise UnknownPicture("image in this row is not an image of a known format") from None
    except Image.DecompressionBombError as error:
        raise TooLarge(f"is refused: {error}; {allowed}") from None
    except UNREADABLE:
        return  # `upright_size` says what is wrong with it
    if width * height > MEGAPIXELS * 1_000_000:
        raise TooLarge(f"has {width} x {height} pixels; {allowed}")


@lru_cache
def _example() -> str:
    image = Image.new("RGB", (64, 48), "#dfe7ee")
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 10, 30, 38), fill="#b3452f")
    draw.ellipse((36, 12, 58, 34), fill="#2f6db3")
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
