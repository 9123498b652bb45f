"""Multi-label image classification: any number of labels for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.multi_label import MultiLabel


class ImageMultiLabel(MultiLabel, ImageRow):
    """Any number of labels for each image; each label is present or not."""

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"multi-label-image-classification", "image-multilabel", "image-tagging"}
    )
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "labels": "labels"}
    supports: ClassVar[frozenset[str]] = frozenset({"features", "classes", "class_weights", "augment"})
