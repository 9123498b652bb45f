"""Which of the labels an image has: any number of them, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from regraft.contracts import Kind
from regraft.tasks.inputs.image import ImageRow
from regraft.tasks.outputs.multi_label import MultiLabel


class ImageMultiLabel(MultiLabel, ImageRow):
    """Any number of labels for each image, each of them present or not."""

    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "labels": "labels"}
    supports: ClassVar[frozenset[str]] = frozenset({"class_weights", "augment"})
