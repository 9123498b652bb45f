"""Which one of the labels an image has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch

from regraft.contracts import Batch, Context, Example, Kind, Row
from regraft.errors import DataError, Unsupported
from regraft.pictures import opened, seen_size
from regraft.scoring import SingleLabel, output_of


class ImageClassification(SingleLabel):
    """One label for each image, resized and cropped as the base's own image processor does."""

    auto: ClassVar[str] = "AutoModelForImageClassification"
    modality: ClassVar[Literal["text", "image"]] = "image"
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "label": "label"}
    supports: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing", "baselines", "prototypes"})

    def check(self, row: Row) -> str | None:
        """An unreadable or huge image; the header is read, no pixel decoded."""
        try:
            seen_size(row["image"])
        except DataError as error:
            return str(error)
        return None

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """`pixel_values` (channels, height, width); `labels` is the label's index."""
        pixels = context.processor(images=opened(row["image"]), return_tensors="pt")["pixel_values"][0]
        example: Example = {"pixel_values": pixels}
        if (label := row.get("label")) is not None:
            example["labels"] = output_of(label, row, context)
        return example

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """`pixel_values` (images, channels, height, width); `labels` (images,) when every example has one.

        Unsupported when sizes differ: classifiers take no padding mask, and padding would change the answers.
        """
        pixels = [example["pixel_values"] for example in examples]
        if len(sizes := {tuple(image.shape) for image in pixels}) > 1:
            raise Unsupported(
                f"the base's image processor made images of the shapes {sorted(sizes)}; a batch needs one shape: set "
                "crop_size, or a size of height and width, in the base's preprocessor_config.json",
                where="base",
            )
        batch: Batch = {"pixel_values": torch.stack(pixels)}
        if all("labels" in example for example in examples):
            batch["labels"] = torch.tensor([example["labels"] for example in examples], dtype=torch.long)
        return batch
