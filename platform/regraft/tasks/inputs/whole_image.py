"""Whole images as a base's inputs, for tasks that answer for every pixel: resized, not cropped or padded."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from regraft.errors import Unsupported
from regraft.media.pixels.processor_input import processor_input


def whole_pixels(image: Image.Image, processor: Any, size: tuple[int, int] | None) -> Tensor:
    """Return the image (3, height, width) as the base's processor scales and normalises it, not cropped or padded.

    Cropped pixels would get no answer. Raises Unsupported where neither `size` nor the processor has a size.
    """
    height, width = size or _processors_size(processor)
    plain = _plain(processor)
    if _takes_a_size(processor):
        given = {**processor_input(image, processor), "size": {"height": height, "width": width}, "do_resize": True}
    else:  # GLPN's rounds the image's own size, which differs from row to row
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        given = {**processor_input(resized, processor), "do_resize": False}
    found: Tensor = processor(**given, return_tensors="pt", **plain)["pixel_values"][0]
    return found


def whole_options(processor: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the arguments with which an image processor resizes to `size`, or its own, and crops nothing."""
    height, width = size or _processors_size(processor)
    return {"size": {"height": height, "width": width}, "do_resize": True, **_plain(processor)}


def _plain(processor: Any) -> dict[str, bool]:
    geometry = ("do_center_crop", "do_pad", "keep_aspect_ratio")
    return {name: False for name in geometry if getattr(processor, name, None)}


def _takes_a_size(processor: Any) -> bool:
    return bool(getattr(processor, "size", None)) or getattr(processor, "size_divisor", None) is None


def _processors_size(processor: Any) -> tuple[int, int]:
    """Return the (height, width) of the images that the base's processor makes, after its crop if it crops."""
    crops = getattr(processor, "do_center_crop", None) and processor.crop_size
    size = processor.crop_size if crops else getattr(processor, "size", None)
    if not size:
        raise Unsupported(
            "the base's image processor keeps the size of each image, and a batch needs one: write task.size, as in "
            "[480, 640] (height, width)",
            where="task.size",
        )
    if size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return int(size["shortest_edge"]), int(size["shortest_edge"])
