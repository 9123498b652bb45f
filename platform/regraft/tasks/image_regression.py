"""Which numbers an image has: a rating, an age, a grasp, a steering angle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.regression import Regression


class ImageRegression(Regression, ImageRow):
    """One number for each image, or several: `targets` names their columns.

    Augmentation changes colours alone, and paints over parts: numbers may be places in the image, or angles.
    """

    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "target": "number"}
    supports: ClassVar[frozenset[str]] = frozenset({"augment"})
    # A grasp moves with its image, an angle turns with it, and no name of a target tells which numbers are places.
    moved: ClassVar[bool] = False
