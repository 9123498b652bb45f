"""`image`: a base that reads pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from regraft.contracts.medium import Medium, PipelineValue
from regraft.media.pixels.images import open_rgb


class ImageMedium(Medium):
    """Images, which the base's image processor turns into pixel values, in the form that needs only Pillow."""

    noun: ClassVar[str] = "an image processor"
    auto: ClassVar[str] = "AutoImageProcessor"
    options: ClassVar[Mapping[str, Any]] = {"backend": "pil"}
    files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json", "processor_config.json")
    column: ClassVar[str] = "image"
    pipeline_value: ClassVar[PipelineValue | None] = PipelineValue(
        "from PIL import Image",
        'picture = Image.new("RGB", (640, 480))  # for example; yours is Image.open(path)',
        "picture",
    )
    in_timm: ClassVar[bool] = True

    def found_in(self, folder: Path) -> bool:
        """Return whether there is a processor's file, and it is not one of sounds."""
        return any(
            _settings(folder / name).get("sampling_rate") is None for name in self.files if (folder / name).exists()
        )

    def tensors(self, processor: Any, value: Any) -> dict[str, Tensor]:
        """Return `pixel_values` (channels, height, width)."""
        return {"pixel_values": processor(open_rgb(value), return_tensors="pt")["pixel_values"][0]}


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # the processor says what is wrong with its file when it is loaded
    return found if isinstance(found, dict) else {}
