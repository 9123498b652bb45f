"""Semantic segmentation: a class for each pixel of an image."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt, StringConstraints, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import (
    Answer,
    ApiForm,
    Batch,
    Context,
    Example,
    Kind,
    Loader,
    Record,
    Row,
    Score,
    segments_form,
)
from regraft.contracts.findings import Findings, Matrix, Table
from regraft.errors import DataError
from regraft.media.pixels.augmentation import Augmentation, mirrors
from regraft.media.pixels.images import checked_size, image_name, open_rgb
from regraft.tasks.inputs.levels import GreyLevels
from regraft.tasks.inputs.mask_values import IGNORED, MaskValues, other_size
from regraft.tasks.inputs.whole_image import whole_pixels

Colour = Annotated[str, StringConstraints(pattern="^#[0-9A-Fa-f]{6}$")]
LOGITS_AT_ONCE = 1 << 25
"""Most logits upsampled at a time: a whole photo with 150 classes would take gigabytes."""
ANSWERED_AT_ONCE = 1 << 22
"""The same for answers, which need no sums that depend on it: a few of these are in memory beside a large picture."""


class SemanticSegmentation(GreyLevels):
    """One class for each pixel, learned from masks: image files whose pixel values are class numbers.

    An image is resized to the model's input size without keeping its proportions, so that nothing is cropped. Metrics
    and answers are computed at the image's original size.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"image-segmentation", "segmentation", "segment"})
    auto: ClassVar[str] = "AutoModelForSemanticSegmentation"
    modality: ClassVar[str] = "image"
    score: ClassVar[Score] = Score("mean_iou", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "mask": "mask"}
    supports: ClassVar[frozenset[str]] = frozenset({"class_weights", "label_smoothing", "augment"})
    later: ClassVar[frozenset[str]] = GreyLevels.later | {"colours"}
    row_shapes: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"values": "nonzero"})

    labels: tuple[str, ...] = Field(("background", "object"), min_length=2)
    """The classes in the order of the masks' pixel values, which begin at `first`."""
    values: Literal["classes", "nonzero"] = "classes"
    """Meaning of a mask's pixel values. classes: numbers of `labels`. nonzero: 0 is the first label and every other
    value the second, such as numbers of instances, or 255."""
    colours: dict[str, Colour] | None = None
    """Colour of each label in masks that are coloured, such as {background: '#000000', object: '#ff0000'}; null: masks
    hold numbers."""
    ignore: int | None = Field(None, ge=0)
    """Pixel value that is left out of the loss and the metrics, often 255; null: every pixel counts. With `colours` it
    is a colour, such as 0xe0e0c0."""
    first: int = Field(0, ge=0)
    """Pixel value of the first label: 1 where 0 marks unlabelled pixels (with `ignore: 0`, as in ADE20K)."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] to which every image is resized; null is the size of the base's image processor."""

    @model_validator(mode="after")
    def _values_have_one_meaning(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {list(self.labels)} are written; each may be listed once")
        if self.values == "nonzero" and (len(self.labels) != 2 or self.first):
            raise ValueError(
                "values: nonzero needs two labels, for 0 and for all other values: write two, and leave out first"
            )
        if self.colours is not None and (problem := self._mask_values.colour_problem()):
            raise ValueError(problem)
        if self.colours is None and self.values == "classes" and self.ignore is not None:
            last = self.first + len(self.labels) - 1
            if self.first <= self.ignore <= last:
                raise ValueError(
                    f"ignore: {self.ignore} is written, but {self.first} to {last} are pixel values of labels"
                )
        return self

    @property
    def _mask_values(self) -> MaskValues:
        return MaskValues(self.labels, self.values, self.colours, self.ignore, self.first)

    def classes(self) -> tuple[str, ...]:
        """Return the field `labels`: masks contain numbers, not names."""
        return self.labels

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's segmenter without its auxiliary head.

        The auxiliary output is not used, so the head would get no gradient, which DDP refuses.
        """
        plain = {"use_auxiliary_head": False} if hasattr(load.config, "use_auxiliary_head") else {}
        return load(self.auto, labels=labels, **plain)

    def check(self, row: Row) -> str | None:
        """Refuse an unreadable or huge image, a mask of another size, and pixel values of no label."""
        try:
            size = checked_size(row["image"], self.levels)
            if (mask := row.get("mask")) is None:
                return None
            found = self._mask_values.pixels(mask)
        except DataError as error:
            return str(error)
        if found.shape != size[::-1]:
            return other_size(row, found.shape, size)
        return self._mask_values.problem(found, image_name(mask))

    def remark(self, row: Row) -> str | None:
        """Return what a lossy file of a mask means for its classes, or None."""
        found = None if row.get("mask") is None else self._mask_values.remark(row["mask"])
        return found or super().remark(row)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (3, height, width) and `labels`, a dict of tensors.

        `labels` holds `size`, the image's height and width. If the row has a mask, it also holds `mask`: class numbers
        as int16, IGNORED for pixels that do not count. The mask has the size of `pixel_values` in training, else the
        image's.
        """
        image = open_rgb(row["image"], self.levels)
        labels = {"size": torch.tensor([image.height, image.width])}
        mask = None if row.get("mask") is None else self._mask_values.numbers(row["mask"])
        if train and context.augment != "off" and mask is not None:
            change = Augmentation.drawn(context.augment, row["draw"], image.size, mirror=mirrors(context.labels))
            image, mask = change.image(image), change.mask(mask, IGNORED)
        pixels = whole_pixels(image, context.processor, self.size)
        if mask is not None:
            height, width = pixels.shape[1:]
            if train:
                mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            labels["mask"] = torch.from_numpy(mask.astype(np.int16))
        return {"pixel_values": pixels, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (images, 3, height, width) and `labels`, one dict of tensors per image."""
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": [example["labels"] for example in examples],
        }

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of upsampled logits as (sum over counted pixels, their weight)."""
        total, weight = output.logits.float().sum() * 0, torch.zeros((), device=output.logits.device)
        for logits, target in zip(output.logits, batch["labels"], strict=True):
            truth = target["mask"].long()
            full = _upsampled(logits, truth.shape[0], truth.shape[1], corners=_aligns_corners(context.config))
            losses, weights = _pixel_losses(full, truth, context)
            total, weight = total + losses, weight + weights
        return total, weight

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return each image's confusion matrix, loss and weight, and its `error`, 1 - mean IoU.

        The matrix is stored as its nonzero cells: `cells` (target * classes + answer) and the number of `pixels` in
        each.
        """
        records: list[Record] = []
        classes = len(context.labels)
        for logits, target in zip(output.logits.detach(), batch["labels"], strict=True):
            counts = np.zeros(classes * classes, np.int64)
            loss, weight = 0.0, 0.0
            for top, band in _bands(logits, *target["mask"].shape, corners=_aligns_corners(context.config)):
                truth = target["mask"][top : top + band.shape[1]].long()
                counted = truth != IGNORED
                cells = (truth * classes + band.argmax(0))[counted]
                counts += torch.bincount(cells, minlength=classes * classes).cpu().numpy()
                losses, weights = _pixel_losses(band, truth, context)
                loss, weight = loss + losses.item(), weight + weights.item()
            filled = np.flatnonzero(counts)
            mean_iou = _means(counts.reshape(classes, classes))["mean_iou"] if filled.size else 1.0
            records.append(
                {"cells": filled, "pixels": counts[filled], "loss": loss, "weight": weight, "error": 1 - mean_iou}
            )
        return records

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return mean IoU and mean Dice over the classes that occur in masks or answers, pixel accuracy, and the loss.

        All are computed from the counts over all images together, as in PASCAL VOC.
        """
        weight = sum(record["weight"] for record in records)
        loss = sum(record["loss"] for record in records) / weight if weight else 0.0
        return {**_means(_confusion(records, len(context.labels))), "loss": loss}

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return IoU, Dice, precision and recall of each class, and the confusion matrix of pixels."""
        counts = _confusion(records, len(context.labels))
        hit, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        rows = [
            (
                label,
                _ratio(hit[k], true[k] + predicted[k] - hit[k]),
                _ratio(2 * hit[k], true[k] + predicted[k]),
                _ratio(hit[k], predicted[k]),
                _ratio(hit[k], true[k]),
                int(true[k]),
            )
            for k, label in enumerate(context.labels)
        ]
        columns = ("class", "IoU", "Dice", "precision", "recall", "pixels")
        note = "Over all pixels of all images; empty where a class occurs neither in a mask nor in an answer."
        rows_of_counts = tuple(tuple(int(count) for count in row) for row in counts)
        return Findings(
            tables=(Table("Classes", columns, tuple(rows), note),),
            matrices=(Matrix("Pixels", context.labels, context.labels, rows_of_counts),),
        )

    def api_form(self) -> ApiForm:
        """Return the form of masks with labels and scores."""
        return segments_form()

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `segments`, largest first, and `map`, a PNG in base64 whose pixels are class numbers.

        A segment has a label, a mask (a PNG in base64, 255 inside) and a score, the label's mean probability inside.
        Masks and map have the size of the input image.
        """
        answers: list[Answer] = []
        depth = np.uint8 if len(context.labels) <= 256 else np.uint16
        for logits, target in zip(output.logits.detach(), batch["labels"], strict=True):
            numbers: list[NDArray[Any]] = []
            confidence, sizes = np.zeros(len(context.labels)), np.zeros(len(context.labels), np.int64)
            size, corners = target["size"].tolist(), _aligns_corners(context.config)
            for _, band in _bands(logits, *size, corners=corners, at_once=ANSWERED_AT_ONCE):
                best, chosen = (found.cpu().numpy() for found in band.softmax(0).max(0))
                confidence += np.bincount(chosen.ravel(), best.ravel().astype(np.float64), minlength=len(confidence))
                sizes += np.bincount(chosen.ravel(), minlength=len(confidence))
                numbers.append(chosen.astype(depth))  # a large picture in 8 bytes a pixel is hundreds of megabytes
            everywhere = np.concatenate(numbers)
            segments = [
                {
                    "label": context.labels[number],
                    "mask": _png(np.where(everywhere == number, np.uint8(255), np.uint8(0))),
                    "score": float(confidence[number] / sizes[number]),
                }
                for number in sorted(np.flatnonzero(sizes).tolist(), key=lambda number: -sizes[number])
            ]
            answers.append({"segments": segments, "map": _png(everywhere)})
        return answers


def _pixel_losses(logits: Tensor, truth: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return the cross entropy and the weight, both summed over the pixels that count.

    `logits` are (classes, height, width), `truth` (height, width).
    """
    weights = None if context.class_weights is None else context.class_weights.to(logits)
    loss = F.cross_entropy(
        logits[None],
        truth[None],
        weight=weights,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=context.label_smoothing,
    )
    counted = truth[truth != IGNORED]
    return loss, logits.new_tensor(float(counted.numel())) if weights is None else weights[counted].sum()


def _aligns_corners(config: Any) -> bool:
    """Return whether a model's outer logits belong to the image's outer pixels (torch's `align_corners`).

    DeepLab's do, as it was trained in TensorFlow: an input of 16 n + 1 pixels (513), padded equally on both sides, has
    its features at every 16th pixel, both ends included. Otherwise objects would move 7 pixels towards the middle.
    """
    return getattr(config, "model_type", "") == "mobilenet_v2" and bool(getattr(config, "tf_padding", False))


def _upsampled(logits: Tensor, height: int, width: int, *, corners: bool) -> Tensor:
    """Return logits (classes, h, w) resized to (classes, height, width) by bilinear interpolation."""
    size = height, width
    found: Tensor = F.interpolate(logits[None].float(), size, mode="bilinear", align_corners=corners)[0]
    return found


def _bands(
    logits: Tensor, height: int, width: int, *, corners: bool, at_once: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield bands of the upsampled logits from top to bottom, each with the number of its first line.

    A band has as many lines as `at_once` allows, or LOGITS_AT_ONCE. All logits are interpolated along the height
    first. The interpolation along the width then needs only the lines of the band.
    """
    tall = _upsampled(logits, height, logits.shape[2], corners=corners)
    lines = max(1, (at_once or LOGITS_AT_ONCE) // (logits.shape[0] * width))
    for top in range(0, height, lines):
        band = tall[:, top : top + lines]
        yield top, _upsampled(band, band.shape[1], width, corners=corners)


def _confusion(records: Sequence[Record], classes: int) -> NDArray[np.int64]:
    """Return the number of pixels (classes, classes) by true class (rows) and predicted class (columns)."""
    counts = np.zeros(classes * classes, np.int64)
    for record in records:
        counts[record["cells"]] += record["pixels"]
    return counts.reshape(classes, classes)


def _means(counts: NDArray[np.int64]) -> dict[str, float]:
    """Return the metrics of a confusion matrix (classes, classes)."""
    hit, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    occurs = true + predicted > 0
    if not occurs.any():
        return {"mean_iou": 0.0, "dice": 0.0, "pixel_accuracy": 0.0}
    hit, true, predicted = hit[occurs], true[occurs], predicted[occurs]
    return {
        "mean_iou": float((hit / (true + predicted - hit)).mean()),
        "dice": float((2 * hit / (true + predicted)).mean()),
        "pixel_accuracy": float(hit.sum() / true.sum()),
    }


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _png(pixels: NDArray[Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
