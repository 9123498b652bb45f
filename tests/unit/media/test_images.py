"""Image files of cameras, scanners and design tools: read as intended, or refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.contracts.remark import Measured
from regraft.errors import DataError
from regraft.media.pixels.images import checked_size, class_numbers, depth_remark, open_rgb, upright_size

RAMP = np.linspace(0, 65535, 64 * 32).reshape(32, 64)


def file_of(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)])
def test_sixteen_bits_keep_their_greys(kind: str, dtype: Any) -> None:
    seen = np.asarray(open_rgb(file_of(Image.fromarray(RAMP.astype(dtype)), kind)))
    assert seen.shape == (32, 64, 3)
    np.testing.assert_array_equal(seen[..., 0], RAMP.astype(int) // 256)


def test_numbers_that_are_no_greys_are_refused() -> None:
    measured = file_of(Image.fromarray((RAMP - 1000).astype(np.int32)), "TIFF")
    with pytest.raises(DataError, match="levels -1000 to 64535; allowed are 0 to 255"):
        open_rgb(measured)
    real = file_of(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF")
    for read in (open_rgb, lambda file: checked_size(file, None)):
        with pytest.raises(DataError, match=r"floating-point pixels.*task\.levels"):
            read(real)
    with pytest.raises(DataError, match=r"levels -1000 to 64535.*task\.levels"):
        checked_size(measured, None)


@pytest.mark.parametrize(
    ("kind", "dtype", "low", "high"),
    [
        ("PNG", np.uint16, 0, 500),
        ("PNG", np.uint16, 100, 4095),
        ("TIFF", np.uint16, 0, 4095),
        ("TIFF", np.int16, -1024, 3071),
        ("TIFF", np.int32, -70000, 70000),
        ("TIFF", np.float32, 0, 1),
        ("TIFF", np.float32, -20.5, 121.75),
    ],
)
def test_levels_of_black_and_white_give_all_greys(kind: str, dtype: Any, low: float, high: float) -> None:
    """Cameras of 9 to 14 bits, microscopes, thermal cameras and computed tomography, as their programs export them."""
    values = np.linspace(low, high, 256).reshape(8, 32)
    file = file_of(Image.fromarray(values.astype(np.int32 if dtype == np.int16 else dtype)), kind)
    seen = np.asarray(open_rgb(file, (low, high)))[..., 0]
    assert np.abs(seen.astype(int) - np.arange(256).reshape(8, 32)).max() <= 1
    assert checked_size(file, (low, high)) == (32, 8)
    clipped = np.asarray(open_rgb(file, (low, (low + high) / 2)))[..., 0]
    assert clipped.max() == 255 and (clipped == 255).sum() > 100


def test_levels_leave_images_of_8_bits_alone() -> None:
    for mode in ("RGB", "L", "P", "1"):
        file = file_of(Image.radial_gradient("L").convert(mode))
        np.testing.assert_array_equal(np.asarray(open_rgb(file)), np.asarray(open_rgb(file, (0, 500))))


def test_pixels_that_are_no_numbers_are_refused() -> None:
    file = file_of(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    for read in (open_rgb, checked_size):
        with pytest.raises(DataError, match="pixels that are no numbers"):
            read(file, (0, 1))


@pytest.mark.parametrize("levels", [None, (0.0, 65535.0)])
def test_greys_whose_zero_is_white_are_seen_upright_in_brightness(levels: Any) -> None:
    """Radiographs in TIFF may have the photometric interpretation WhiteIsZero, which Pillow turns for 8 bits alone."""
    file = file_of(Image.fromarray(RAMP.astype(np.uint16)), "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(file)) as image:
        if image.tag_v2[262] != 0:
            pytest.skip("this Pillow does not write the tag")
    seen = np.asarray(open_rgb(file, levels))[..., 0]
    assert seen[0, 0] == 255 and seen[-1, -1] == 0


def test_images_of_16_bits_have_a_remark_with_their_highest_level() -> None:
    dark, bright = (file_of(Image.fromarray((RAMP * share).astype(np.uint16))) for share in (500 / 65535, 1.0))
    for file, number in ((dark, 500), (bright, 65535)):
        remark = depth_remark(file, None)
        assert isinstance(remark, Measured) and remark.number == number
    assert depth_remark(dark, None) == depth_remark(bright, None)
    assert depth_remark(dark, (0, 500)) is None
    assert depth_remark(file_of(Image.new("L", (4, 4))), None) is None
    assert depth_remark(b"no image", None) is None


def png_of_16_bits(colours: Any) -> bytes:
    """Return a PNG of colours of 16 bits, which Pillow cannot write."""
    rows = np.asarray(colours, ">u2")
    height, width = rows.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_16_bits_that_are_nearly_black_have_a_remark() -> None:
    for white, limit in ((4095, True), (65535, False)):
        remark = depth_remark(png_of_16_bits(np.full((4, 4, 3), white)), None)
        assert isinstance(remark, Measured) and (remark.number < remark.limit) is limit


def test_programs_are_never_run(tmp_path: Path) -> None:
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (open_rgb, upright_size):
        with pytest.raises(DataError, match="not an image of a known format"):
            read(path)


def test_other_colours_and_the_first_of_an_animation_are_seen_in_rgb() -> None:
    red = Image.new("RGB", (6, 4), (200, 0, 0))
    frames = file_of(red.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (6, 4))])
    files = [frames, file_of(red.convert("P")), file_of(red.convert("RGBA")), file_of(red.convert("CMYK"), "TIFF")]
    for file in files:
        seen = open_rgb(file)
        assert seen.mode == "RGB" and seen.size == (6, 4) == upright_size(file)
        assert np.abs(np.array(seen, int)[0, 0] - (200, 0, 0)).max() < 12
    for mode in ("1", "L", "LA"):
        assert open_rgb(file_of(Image.new(mode, (6, 4)))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("read", [open_rgb, class_numbers])
def test_a_damaged_image_in_a_row_is_not_written_into_the_message(read: Callable[[Any], Any]) -> None:
    whole = file_of(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)))
    for file in (whole[:2000], b"no image at all"):
        with pytest.raises(DataError) as told:
            read(file)
        assert "in this row is not readable" in str(told.value) and len(str(told.value)) < 200


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"image .*scan\.png is not readable: it is not an image of a known format"):
        upright_size(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_that_is_cut_short_is_found_by_its_end(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    whole, path = file_of(noise, kind), tmp_path / f"photo.{kind.lower()}"
    for behind in (0, 40, 100_000):
        path.write_bytes(whole + b"\0" * behind)
        assert upright_size(path) == (300, 300)
    for size in (len(whole) - 2000, len(whole) // 2, 2000):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"photo\..* is not readable"):
            upright_size(path)
