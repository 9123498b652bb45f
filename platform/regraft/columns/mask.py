"""`mask`: an image file whose pixels are class numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from regraft.columns.image import ImageColumn, png
from regraft.contracts.column import MadeUp

MADE_UP_CLASSES = 3


class MaskColumn(ImageColumn):
    """The class number of each pixel, as a path, an s3:// URL, or the bytes of an image file."""

    target: ClassVar[bool] = True
    bare: ClassVar[bool] = False
    media_type: ClassVar[str] = ""

    def for_check(self, value: Any) -> Any:
        """Return a mask in S3 with all of its bytes: its numbers are checked."""
        return self.fetched(value)

    def made_up(self, shared: MadeUp) -> bytes:
        """Return a mask of the image's size that has all classes, as a PNG file."""
        return png(np.random.default_rng(shared.number).integers(0, MADE_UP_CLASSES, shared.size, dtype=np.uint8))
