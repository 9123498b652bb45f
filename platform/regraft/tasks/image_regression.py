"""Image regression: numbers for each image, such as a rating, an age, a grasp or a steering angle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.regression import Regression


class ImageRegression(Regression, ImageRow):
    """One number for each image, or several: `targets` names their columns.

    Augmentation changes colours and erases rectangles, but moves nothing: numbers may be places or angles.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"picture-regression"})
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "target": "number"}
    supports: ClassVar[frozenset[str]] = frozenset({"features", "augment"})
    # A grasp moves with its image and an angle turns with it; names of targets do not show which numbers are places.
    moved: ClassVar[bool] = False
