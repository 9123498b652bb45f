"""Which numbers an image has: a rating, an age, a grasp, a steering angle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Context, Kind
from regraft.image_rows import ImageRow
from regraft.regression import Regression


class ImageRegression(Regression, ImageRow):
    """One number for each image, or several: `targets` names their columns."""

    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "target": "number"}
    supports: ClassVar[frozenset[str]] = frozenset({"augment"})

    def mirrored(self, context: Context) -> bool:
        """Never: in the mirror a way to the left is one to the right, and no name of a target tells."""
        return False
