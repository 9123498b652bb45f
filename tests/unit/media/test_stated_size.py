"""The size that a picture states is that which Pillow reads, in every format that a request may hold."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from PIL import Image

from regraft.media.pixels.stated_size import stated_size
from support.costly_pictures import SAVED, damaged, frames, layers, noise, notes, saved, tiles

ELSEWHERE = ("WEBP", "PPM")
"""Formats that are always decoded where they arrive."""
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"big_tiff": True}, {"no_jp2": True}, {"progressive": True})


@pytest.mark.parametrize("kind", [kind for kind in SAVED if kind not in ELSEWHERE])
def test_the_stated_size_is_the_one_that_is_read(kind: str) -> None:
    draw = random.Random(kind)
    for options in OPTIONS:
        size = (draw.randint(1, 300), draw.randint(1, 300))
        for mode in ("RGB", "L"):
            assert stated_size(saved(noise(size, draw).convert(mode), kind, **options)) == size, options


def test_a_cut_or_changed_file_states_a_size_or_none() -> None:
    draw = random.Random(0)
    for kind in SAVED:
        body = saved(noise((40, 30), draw), kind)
        for _ in range(100):
            changed = bytearray(body[: draw.randint(0, len(body))])
            for _ in range(min(len(changed), draw.randint(0, 4))):
                changed[draw.randrange(min(len(changed), 100))] = draw.randrange(256)
            found = stated_size(bytes(changed))
            assert found is None or min(found) >= 0


@pytest.mark.parametrize("make", (damaged, frames, layers, notes, tiles), ids=lambda make: make.__name__)
def test_no_picture_has_more_pixels_than_it_states(make: Any) -> None:
    for seed in range(3):
        body = make(random.Random(seed))
        if (stated := stated_size(body)) is None:
            continue
        try:
            with Image.open(io.BytesIO(body)) as image:
                size = image.size
        except Exception:
            continue  # one that is refused as damaged
        assert size[0] * size[1] <= stated[0] * stated[1]


def test_a_place_beyond_any_file_states_no_size() -> None:
    assert stated_size(b"II+\0\x08\0\0\0" + b"\xff" * 8) is None
