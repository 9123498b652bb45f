"""How does an image become what a base sees?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from regraft.contracts import Batch, Context, Example, Loader, Row
from regraft.errors import DataError, Unsupported
from regraft.media.pixels.augmentation import Augmentation, mirrors
from regraft.media.pixels.images import opened, seen_size
from regraft.tasks.outputs.one_vector import OneVector


class ImageRow(OneVector):
    """Half of a task: a row is an image, resized and cropped as the base's own image processor does."""

    auto: ClassVar[str] = "AutoModelForImageClassification"
    modality: ClassVar[str] = "image"
    moved: ClassVar[bool] = True
    """Whether an image keeps its truth when it is moved, turned or zoomed; else augmentation changes colours alone."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """The base's own classifier."""
        return load(self.auto, labels=self.outputs(labels), problem_type=self.problem)

    def check(self, row: Row) -> str | None:
        """An unreadable or huge image; the header is read, no pixel decoded."""
        try:
            seen_size(row["image"])
        except DataError as error:
            return str(error)
        return super().check(row)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """`pixel_values` (channels, height, width); `labels` where the row tells its truth."""
        image = opened(row["image"])
        if train and context.augment != "off":
            change = Augmentation.drawn(context.augment, row["draw"], image.size, mirror=mirrors(context.labels))
            image = (change if self.moved else change.in_place()).image(image)
        pixels = context.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return self.with_target({"pixel_values": pixels}, row, context)

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """`pixel_values` (images, channels, height, width); `labels` (images, ...) when every example has them.

        Unsupported when sizes differ: classifiers take no padding mask, and padding would change the answers.
        """
        pixels = [example["pixel_values"] for example in examples]
        if len(sizes := {tuple(image.shape) for image in pixels}) > 1:
            raise Unsupported(
                f"the base's image processor made images of the shapes {sorted(sizes)}; a batch needs one shape: set "
                "crop_size, or a size of height and width, in the base's preprocessor_config.json",
                where="base",
            )
        return self.with_targets({"pixel_values": torch.stack(pixels)}, examples)
