"""Images as a base's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from regraft.contracts import Batch, Context, Example, Loader, Row
from regraft.errors import DataError, Unsupported
from regraft.media.pixels.augmentation import Augmentation, mirrors
from regraft.media.pixels.images import checked_size, open_rgb
from regraft.media.pixels.processor_input import processor_input
from regraft.tasks.inputs.levels import GreyLevels
from regraft.tasks.outputs.one_vector import OneVector


class ImageRow(GreyLevels, OneVector):
    """Half of a task: a row is an image, resized and cropped as the base's own image processor does."""

    auto: ClassVar[str] = "AutoModelForImageClassification"
    modality: ClassVar[str] = "image"
    moved: ClassVar[bool] = True
    """Whether targets stay right when an image is moved, turned or zoomed; else augmentation changes colours alone."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's own classifier."""
        return load(self.auto, labels=self.outputs(labels), problem_type=self.problem)

    def check(self, row: Row) -> str | None:
        """Refuse an unreadable or huge image; only its header is read."""
        try:
            checked_size(row["image"], self.levels)
        except DataError as error:
            return str(error)
        return super().check(row)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (channels, height, width), and `labels` where the row has its target."""
        image = open_rgb(row["image"], self.levels)
        if train and context.augment != "off":
            change = Augmentation.drawn(context.augment, row["draw"], image.size, mirror=mirrors(context.labels))
            image = (change if self.moved else change.in_place()).image(image)
        pixels = context.processor(**processor_input(image, context.processor), return_tensors="pt")["pixel_values"][0]
        return self.with_target({"pixel_values": pixels}, row, context)

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (images, channels, height, width); `labels` (images, ...) if every example has them.

        Raises Unsupported where sizes differ: classifiers take no padding mask, and padding would change answers.
        """
        pixels = [example["pixel_values"] for example in examples]
        if len(sizes := {tuple(image.shape) for image in pixels}) > 1:
            raise Unsupported(
                f"the base's image processor made images of the shapes {sorted(sizes)}; a batch needs one shape: set "
                "crop_size, or a size of height and width, in the base's preprocessor_config.json",
                where="base",
            )
        return self.with_targets({"pixel_values": torch.stack(pixels)}, examples)
