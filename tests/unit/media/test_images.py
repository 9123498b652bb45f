"""Image files of cameras, scanners and design tools: read as intended, or refused with the reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.errors import DataError
from regraft.media.pixels.images import class_numbers, open_rgb, upright_size

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
    for read in (open_rgb, upright_size):
        with pytest.raises(DataError, match="floating-point pixels"):
            read(real)


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
