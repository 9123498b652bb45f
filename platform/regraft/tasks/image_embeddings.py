"""Embeddings of images: a vector for each image, near for images that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from regraft.contracts import ApiForm, Batch, Context, Example, Kind, Loader, Row, picture_vector_form
from regraft.errors import DataError, Unsupported
from regraft.media.pixels.augmentation import Augmentation, mirrors
from regraft.media.pixels.images import checked_size, open_rgb
from regraft.media.pixels.processor_input import processor_input
from regraft.tasks.inputs.content_keys import picture_key
from regraft.tasks.inputs.pooled_encoder import PooledPictures
from regraft.tasks.inputs.text import without_pooler
from regraft.tasks.outputs.embedding import Embedding

_DRAWS = 1 << 64
_TOKENS = frozenset({"cls_token", "class_embedding"})
"""Names of the class token's parameter in transformers and timm."""


class ImageEmbeddings(Embedding):
    """A vector of length 1 for each image, to search and compare images by cosine.

    Rows are pairs of images that belong together (views of one thing), triplets, or pairs with a score. A vector is the
    mean over the base's last map, or its class token, and there is no head: write a method that moves the base. All
    rows of a step are compared, on all workers and in all micro-batches: larger steps teach more.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"image-feature-extraction", "image-similarity", "visual-search"})
    auto: ClassVar[str] = "AutoModel"
    modality: ClassVar[str] = "image"
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "pair": "image"}
    supports: ClassVar[frozenset[str]] = frozenset({"augment"})
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"rows": "triplets"}, {"rows": "graded"}, {})

    pooling: Literal["auto", "cls", "mean"] = "auto"
    """What a vector is made of: the mean over the last map or over all positions, or the first position (cls); auto is
    cls where the base has a class token among its last positions, else mean."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its pooling. Raises Unsupported for one with a decoder or a tower for texts."""
        if getattr(load.config, "is_encoder_decoder", False):
            kind = load.config.model_type
            raise Unsupported(
                f"a base of type {kind} has an encoder and a decoder: name an encoder, such as ViT or ResNet",
                where="base",
            )
        if hasattr(load.config, "text_config"):
            raise Unsupported(
                f"a base of type {load.config.model_type} reads images and texts together: name an encoder of images "
                "alone, such as ViT or ResNet",
                where="base",
            )
        base = load(self.auto, **without_pooler(load.config))
        if self.pooling != "auto":
            return PooledPictures(base, self.pooling)
        token = any(name.rpartition(".")[2] in _TOKENS for name, _ in base.named_parameters())
        return PooledPictures(base, "token" if token else "mean")

    def check(self, row: Row) -> str | None:
        """Refuse an unreadable or huge image; only its header is read."""
        for name in self.compared():
            if name not in row:
                continue
            try:
                checked_size(row[name], None)
            except DataError as error:
                return str(error)
        return super().check(row)

    def key_of(self, value: Any) -> int:
        """Return a number that equal pictures share."""
        return picture_key(value)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (channels, height, width); with an axis for the images of a row before them, and
        `labels`, where the row has its pair."""
        labels = self.keys_of(row)
        if labels is None:
            return {"pixel_values": self._pixels(row, self.asked(), context, None)}
        draws: list[int | None] = [None] * len(self.compared())
        if train and context.augment != "off":
            draws = [(row["draw"] + place) % _DRAWS for place in range(len(draws))]
        every = [self._pixels(row, name, context, draw) for name, draw in zip(self.compared(), draws, strict=True)]
        if len({image.shape for image in every}) > 1:
            raise DataError(_sizes(every), where=f"row {row.get('row')}")
        return {"pixel_values": torch.stack(every), "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (rows, channels, height, width), or (rows, images, channels, height, width).

        Raises Unsupported where sizes differ: padding would change vectors.
        """
        pixels = [example["pixel_values"] for example in examples]
        if len({tuple(one.shape) for one in pixels}) > 1:
            raise Unsupported(_sizes(pixels), where="base")
        return self.with_keys({"pixel_values": torch.stack(pixels)}, [example.get("labels") for example in examples])

    def api_form(self) -> ApiForm:
        """Return the form of feature extraction."""
        return picture_vector_form(self.sizes)

    def _pixels(self, row: Row, name: str, context: Context, draw: int | None) -> Tensor:
        """Return one image as the base reads it, changed at random by `draw`."""
        image = open_rgb(row[name])
        if draw is not None and context.augment != "off":
            image = Augmentation.drawn(context.augment, draw, image.size, mirror=mirrors(context.labels)).image(image)
        found = context.processor(**processor_input(image, context.processor), return_tensors="pt")
        pixels: Tensor = found["pixel_values"][0]
        return pixels


def _sizes(images: Sequence[Tensor]) -> str:
    shapes = sorted({tuple(image.shape) for image in images})
    return (
        f"the base's image processor made images of the shapes {shapes}; rows need one shape: set crop_size, or a size "
        "of height and width, in the base's preprocessor_config.json"
    )
