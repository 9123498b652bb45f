"""Depth estimation: the distance of each pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from regraft.contracts import Answer, ApiForm, Batch, Context, Example, Kind, Record, Row, Score, depth_form
from regraft.contracts.findings import Findings
from regraft.errors import DataError
from regraft.media.pixels.augmentation import Augmentation
from regraft.media.pixels.depth_maps import depth_png
from regraft.media.pixels.images import checked_size, open_rgb
from regraft.tasks.inputs.depth_values import Depths, DepthValues
from regraft.tasks.inputs.levels import GreyLevels
from regraft.tasks.inputs.whole_image import whole_pixels
from regraft.tasks.metrics.depth import aligned, by_distance, depth_errors

VARIANCE = 0.5
"""Share of the squared mean that the metric loss forgives: 1 would not see an error that all pixels share."""
FLOOR = 0.05
"""Ratio of predicted to true depth below which its logarithm goes on as a straight line, down to 0 and below."""
FLAT = 1e-3
"""Spread of an image's inverse depth, as a share of its median, below which its shape teaches nothing."""
_OUTSIDE = -1


class DepthEstimation(GreyLevels):
    """The distance of each pixel, learned from depth maps: grey PNG of 16 bits, TIFF, or arrays (NPY).

    An image is resized to the model's input size without keeping its proportions, so that nothing is cropped. Metrics
    and answers are computed at the image's original size.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"depth", "monocular-depth-estimation", "depth-prediction"})
    auto: ClassVar[str] = "AutoModelForDepthEstimation"
    modality: ClassVar[str] = "image"
    score: ClassVar[Score] = Score("abs_rel", "min")
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "depth": "distances"}
    supports: ClassVar[frozenset[str]] = frozenset({"augment"})

    kind: Literal["metric", "relative"] = "metric"
    """metric: the model answers with distances. relative: with inverse distances of unknown scale and shift, as MiDaS
    and Depth Anything do; neither loss nor metrics see scale and shift, so that maps of several cameras go together."""
    maps: Literal["depth", "inverse"] = "depth"
    """Meaning of a depth map's numbers: distances, or inverse distances (disparities)."""
    scale: PositiveFloat | None = None
    """What a stored number is multiplied by, such as 0.00390625 for KITTI; null: 0.001 for whole numbers, so that
    millimetres become metres, and 1 for fractions."""
    ignore: float | None = None
    """Stored number of pixels without depth, such as 65535. Numbers that are not above 0 and NaN never count."""
    min_depth: PositiveFloat | None = None
    """Least depth that counts, in the unit after `scale`; null: all above 0."""
    max_depth: PositiveFloat | None = None
    """Largest depth that counts; null: all."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] to which every image is resized; null is the size of the base's image processor."""

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> Self:
        if self.min_depth is not None and self.max_depth is not None and self.min_depth >= self.max_depth:
            raise ValueError(
                f"min_depth {self.min_depth:g} and max_depth {self.max_depth:g} are written; the least comes first"
            )
        return self

    @property
    def _values(self) -> DepthValues:
        return DepthValues(self.maps, self.scale, self.ignore, self.min_depth, self.max_depth)

    def check(self, row: Row) -> str | None:
        """Refuse an unreadable or huge image, and a depth map of another size or without a valid pixel."""
        try:
            size = checked_size(row["image"], self.levels)
            return None if row.get("depth") is None else self._values.problem(row, size)
        except DataError as error:
            return str(error)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (3, height, width) and `labels`, a dict of tensors.

        `labels` holds `size`, the image's height and width. If the row has a depth map, it also holds `depth` in fp32,
        0 for pixels that do not count: in training in the size of `pixel_values`, else in the image's.
        """
        image = open_rgb(row["image"], self.levels)
        labels = {"size": torch.tensor([image.height, image.width])}
        depth = None if row.get("depth") is None else self._values.depths(row["depth"])
        if train and context.augment != "off" and depth is not None:
            change = Augmentation.drawn(context.augment, row["draw"], image.size)
            image, depth = change.image(image), _moved(depth, change)
        pixels = whole_pixels(image, context.processor, self.size)
        if depth is not None:
            chosen = _nearest(depth, *pixels.shape[1:]) if train else depth
            # Where few pixels are valid, as with a laser's points, the small map may have hit none of them.
            labels["depth"] = torch.from_numpy(np.array(chosen if chosen.any() else depth))
        return {"pixel_values": pixels, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (images, 3, height, width) and `labels`, one dict of tensors for each image."""
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": [example["labels"] for example in examples],
        }

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the losses of the images as (sum, number of images that have one).

        metric: the variance of log-ratios and a share of their squared mean (Eigen et al., 2014). relative: the mean
        difference of inverse depths, each centred by its median and scaled by its mean deviation (Ranftl et al., 2020).
        """
        total = weight = torch.zeros((), device=output.predicted_depth.device)
        for predicted, target in zip(output.predicted_depth, batch["labels"], strict=True):
            value, counts = self._image_loss(*_valid(_resized(predicted, target["depth"].shape), target["depth"]))
            total, weight = total + value, weight + counts
        return total, weight

    def _image_loss(self, predicted: Tensor, true: Tensor) -> tuple[Tensor, int]:
        """Return the loss of valid pixels (pixels,), and 1; zeros where they teach nothing."""
        if not true.numel():
            return predicted.sum() * 0, 0
        if self.kind == "metric":
            ratio = _log(predicted / true)
            return (ratio**2).mean() - VARIANCE * ratio.mean() ** 2, 1
        inverse = 1 / true
        centre, spread = _centre_and_spread(inverse)
        if spread <= FLAT * centre:
            return predicted.sum() * 0, 0
        middle, deviation = _centre_and_spread(predicted)
        deviation = torch.maximum(deviation, FLAT * middle.detach().abs() + 1e-6)
        return ((predicted - middle) / deviation - (inverse - centre) / spread).abs().mean(), 1

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return the errors of each image's valid pixels, its loss and weight; `error` is AbsRel.

        With `relative`, the inverse depth is scaled and shifted first as fits the true one best.
        """
        records: list[Record] = []
        for predicted, target in zip(output.predicted_depth.detach(), batch["labels"], strict=True):
            found, true = _valid(_resized(predicted, target["depth"].shape), target["depth"])
            loss, weight = self._image_loss(found, true)
            numbers, depths = found.double().cpu().numpy(), true.double().cpu().numpy()
            if self.kind == "relative":
                numbers = aligned(numbers, depths, self.max_depth or float(depths.max()))
            errors = depth_errors(numbers, depths)
            records.append({**errors, "error": errors["abs_rel"], "loss": loss.item(), "weight": weight})
        return records

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return the means over images of AbsRel, RMSE and delta1, the share of pixels within a factor of 1.25.

        The loss is that of training, over the images that have one.
        """
        weight = sum(record["weight"] for record in records)
        means = {name: float(np.mean([one[name] for one in records])) for name in ("abs_rel", "rmse", "delta1")}
        return {**means, "loss": sum(record["loss"] for record in records) / weight if weight else 0.0}

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return the relative error by distance."""
        return Findings(tables=(by_distance(records),))

    def api_form(self) -> ApiForm:
        """Return the form of a depth map with its range."""
        return depth_form()

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `depth`, a PNG of 16 bits in base64 in the size of the image, its `range` and the task's `kind`.

        The range is that of the model's output, [at black, at white]: distances, or for `relative` inverse ones.
        """
        answers: list[Answer] = []
        for predicted, target in zip(output.predicted_depth.detach(), batch["labels"], strict=True):
            height, width = target["size"].tolist()
            picture, low, high = depth_png(_resized(predicted, (height, width)).cpu().numpy())
            answers.append({"depth": picture, "range": [low, high], "kind": self.kind})
        return answers


def _resized(predicted: Tensor, size: Sequence[int]) -> Tensor:
    """Return predicted depth (height, width) in another size, as transformers' own processors resize it."""
    if tuple(predicted.shape) == tuple(size):
        return predicted.float()
    found: Tensor = F.interpolate(predicted[None, None].float(), tuple(size), mode="bicubic", align_corners=False)[0, 0]
    return found


def _valid(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Return predicted and true depth of the pixels that count, (pixels,) each: the others are not computed with."""
    true = true.to(predicted)
    counted = true > 0
    return predicted[counted], true[counted]


def _log(ratio: Tensor) -> Tensor:
    """Return logarithms that go on as straight lines below FLOOR, where a model's output may be 0 or less."""
    low = ratio < FLOOR
    line = np.log(FLOOR) + (ratio - FLOOR) / FLOOR
    return torch.where(low, line, torch.where(low, torch.ones_like(ratio), ratio).log())


def _centre_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    centre = values.median()
    return centre, (values - centre).abs().mean()


def _nearest(depth: Depths, height: int, width: int) -> Depths:
    """Return the map in another size without mixing depths: a mean across an edge is the depth of nothing."""
    return np.asarray(Image.fromarray(depth).resize((width, height), Image.Resampling.NEAREST))


def _moved(depth: Depths, change: Augmentation) -> Depths:
    """Return the map moved as its image is, 0 for what comes from outside or is painted over."""
    places: NDArray[np.int32] = np.arange(depth.size, dtype=np.int32).reshape(depth.shape)
    moved = change.mask(places, _OUTSIDE)
    return np.where(moved == _OUTSIDE, np.float32(0), depth.ravel()[moved])
