"""A large image is handed to a processor without copies, and gives it the same pixels."""

from __future__ import annotations

import random

import pytest
import transformers
from PIL import Image

from regraft.media.pixels import processor_input as handed
from support.costly_pictures import noise

SIZE = {"height": 24, "width": 32}
PROCESSORS = ("ViT", "Yolos", "Segformer", "MobileNetV2", "Beit", "ConvNext", "Detr")


@pytest.mark.parametrize("size", [(90, 70), (3, 61), (61, 3), (520, 300)])
def test_a_large_image_becomes_the_same_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROCESSORS:
        processor = getattr(transformers, f"{name}ImageProcessor")()
        wanted = {"return_tensors": "pt", "size": {"shortest_edge": 32} if name == "ConvNext" else SIZE}
        image = noise(size, random.Random(1))
        monkeypatch.setattr(handed, "LARGE", 1 << 30)
        usual = processor(**handed.processor_input(image, processor), **wanted)["pixel_values"]
        monkeypatch.setattr(handed, "LARGE", 100)
        given = handed.processor_input(image, processor)
        assert given["images"] is not image and image.size == size
        assert processor(**given, **wanted)["pixel_values"].equal(usual), name


def test_a_small_image_is_handed_over_as_it_is() -> None:
    image = noise((90, 70), random.Random(1))
    assert handed.processor_input(image, transformers.ViTImageProcessor()) == {"images": image}


def test_a_processor_that_takes_no_format_gets_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyImages:
        """A processor with the arguments of timm's."""

        def preprocess(self, images: Image.Image, return_tensors: str | None = None) -> None: ...

    monkeypatch.setattr(handed, "LARGE", 100)
    image = noise((90, 70), random.Random(1))
    assert handed.processor_input(image, OnlyImages()) == {"images": image}
