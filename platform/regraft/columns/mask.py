"""`mask`: an image file whose pixels are class numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from regraft.columns.image import ImageColumn, displayed_input, png
from regraft.contracts.column import MadeUp
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import MaskView, ShownRow
from regraft.media.pixels.mask_overlay import mask_overlays

MADE_UP_CLASSES = 3
_USUAL = ("mask", "segment", "annotation")


class MaskColumn(ImageColumn):
    """The class number of each pixel, as a path, an s3:// URL, or the bytes of an image file."""

    target: ClassVar[bool] = True
    drawn: ClassVar[bool] = True
    bare: ClassVar[bool] = False
    plain: ClassVar[str] = ""
    media_type: ClassVar[str] = ""

    def for_check(self, value: Any) -> Any:
        """Return a mask in S3 with all of its bytes: its numbers are checked."""
        return self.fetched(value)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise masks by the name of their column: their files are pictures like any others."""
        named = any(word in sample.name.lower() for word in _USUAL)
        return super().likeness(sample) if named else None

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return nothing: the sizes are those of the pictures."""
        return None

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> MaskView | None:
        """Return an image under the true classes, beside the same under the predicted ones."""
        image = displayed_input(input_name, shown)
        if image is None:
            return None
        truth = _encoded_classes(shown)
        return MaskView(
            input_name, *mask_overlays(image, truth, shown.answer, thumbnails=shown.thumbnails, labels=shown.labels)
        )

    def made_up(self, shared: MadeUp) -> bytes:
        """Return a mask of the image's size that has all classes, as a PNG file."""
        return png(np.random.default_rng(shared.number).integers(0, MADE_UP_CLASSES, shared.size, dtype=np.uint8))


def _encoded_classes(shown: ShownRow) -> Any:
    """Return the true classes as numbers of labels (height, width), which the task makes of the file's; or None."""
    labels = shown.encode().get("labels")
    found = labels.get("mask") if isinstance(labels, Mapping) else None
    return None if found is None else found.numpy()
