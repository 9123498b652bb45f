"""Image classification: one label for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.single_label import SingleLabel


class ImageClassification(SingleLabel, ImageRow):
    """One label for each image, resized and cropped as the base's own image processor does."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"image-classifier", "picture-classification", "vision-classification"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset(
        {"class_weights", "label_smoothing", "baselines", "prototypes", "features", "classes", "augment"}
    )
