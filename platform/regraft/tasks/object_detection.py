"""Object detection: labelled boxes for each image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import HungarianMatcher
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from regraft.contracts import (
    Answer,
    ApiForm,
    BadCell,
    Batch,
    Context,
    Example,
    Kind,
    Loader,
    Record,
    Row,
    Score,
    column_of,
    objects_form,
)
from regraft.contracts.findings import Findings
from regraft.errors import DataError, Unsupported
from regraft.media.pixels.annotated_boxes import AnnotatedBoxes
from regraft.media.pixels.augmentation import Augmentation, mirrors
from regraft.media.pixels.box_readings import BoxForm
from regraft.media.pixels.images import checked_size, open_rgb
from regraft.media.pixels.picture_sizes import picture_size
from regraft.media.pixels.processor_input import processor_input
from regraft.tasks.inputs.box_checks import boxes_problem
from regraft.tasks.inputs.levels import GreyLevels
from regraft.tasks.metrics.detection import confusions, findings_of, precision_of
from regraft.tasks.outputs.detr import (
    BoxTarget,
    LayerOutput,
    box_loss,
    focal_loss,
    matched,
    softmax_loss,
    trained_layers,
    varifocal_loss,
    weights_of,
)
from regraft.tasks.outputs.single_label import output_of

WITH_NO_OBJECT = ("detr", "table-transformer", "yolos")
"""Families whose last class means that there is no object: a query has one class, by softmax."""
VARIFOCAL = ("rt_detr", "rt_detr_v2")
"""Families (Zhao et al., 2024) whose queries score each class independently, by the box's expected overlap."""
FOCAL = ("deformable_detr",)
"""Families whose queries score each class independently (Zhu et al., 2021)."""


class ObjectDetection(GreyLevels):
    """A set of labelled boxes for each image, by models of the DETR kind (Carion et al., 2020).

    RT-DETR's inner layers and its query selection are trained too, but without the denoising queries of its paper.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset({"detection", "detect", "bounding-boxes", "box-detection"})
    auto: ClassVar[str] = "AutoModelForObjectDetection"
    modality: ClassVar[str] = "image"
    score: ClassVar[Score] = Score("map", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "boxes": "boxes", "labels": "labels"}
    supports: ClassVar[frozenset[str]] = frozenset({"augment"})
    later: ClassVar[frozenset[str]] = GreyLevels.later | {"boxes"}

    boxes: BoxForm | None = None
    """Meaning of a box's four numbers in tables (JSON, Parquet, ...); null is x, y, width, height in pixels (xywh).
    xyxy: two corners; cxcywh: the centre, width and height; shares, xyxy-shares, cxcywh-shares: the same as shares of
    the image's width and height. COCO, VOC and YOLO define it themselves."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] to which every image is resized without keeping its proportions; null: the size of the base's
    image processor. Models without a padding mask (YOLOS) then get squares of the processor's shortest edge."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Lowest score of an object in an answer; metrics count all objects."""
    no_object_weight: float = Field(0.1, gt=0)
    """Weight of the class `no object` in the classification loss of DETR, Table Transformer and YOLOS."""
    l1_weight: float = Field(5.0, ge=0)
    """Factor of the L1 distance of boxes, in the loss and in the matching."""
    giou_weight: float = Field(2.0, ge=0)
    """Factor of 1 - GIoU (Rezatofighi et al., 2019), in the loss and in the matching."""
    class_cost: float | None = Field(None, gt=0)
    """Factor of the class probability in the matching; null takes the base's (DETR 1, RT-DETR 2)."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's detector. Raises Unsupported for families whose loss is not implemented."""
        config = load.config
        known = (*WITH_NO_OBJECT, *VARIFOCAL, *FOCAL)
        if config.model_type not in known:
            allowed = ", ".join(sorted(known))
            raise Unsupported(f"a base of type {config.model_type} is written; allowed are {allowed}", where="base")
        if config.model_type in FOCAL and (config.with_box_refine or config.two_stage):
            raise Unsupported(
                "a Deformable DETR with box refinement or two stages is written, whose inner layers are trained by "
                "losses that its class computes only together with its own; allowed is one without",
                where="base",
            )
        if config.model_type in VARIFOCAL:
            # The table of denoising queries would get no gradient; anchors are computed from the size of the images.
            return load(self.auto, labels=labels, num_denoising=0, anchor_image_size=None)
        return load(self.auto, labels=labels)

    def configure(self, model: nn.Module, context: Context) -> None:
        """Raise Unsupported for image sizes at which RT-DETR's feature maps, each half the previous one, do not fit."""
        if context.config.model_type not in VARIFOCAL:
            return
        stride, size = max(context.config.feat_strides), self._fixed_size(context)
        if size is not None and any(side % stride for side in size):
            raise Unsupported(
                f"images of {size[0]} x {size[1]} pixels are asked for; this base takes multiples of {stride}: write "
                f"task.size, such as [{max(1, size[0] // stride) * stride}, {max(1, size[1] // stride) * stride}]",
                where="task.size",
            )

    def convert(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with boxes in pixels, [x, y, width, height], whatever the field `boxes` says of a table."""
        boxes = row.get("boxes")
        if self.boxes is None or boxes is None or isinstance(boxes, AnnotatedBoxes):
            return row
        try:
            picture = picture_size(column_of(self.columns["image"]).for_check(row["image"]))
        except DataError as error:
            raise BadCell(error.message) from None
        return {**row, "boxes": AnnotatedBoxes.of(boxes, self.boxes, None).in_picture(picture)}

    def check(self, row: Row) -> str | None:
        """Refuse an image whose header cannot be read or shows a huge size, and wrong boxes.

        A box is wrong without a label, without an area, or outside the image.
        """
        try:
            size = checked_size(row["image"], self.levels)
        except DataError as error:
            return str(error)
        boxes, labels = row.get("boxes"), row.get("labels")
        if boxes is None and labels is None:
            return None
        if len(boxes or ()) != len(labels or ()):
            return f"{len(boxes or ())} boxes and {len(labels or ())} labels: there must be one label a box"
        return boxes_problem(boxes or (), size, row["image"])

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (3, height, width) and `labels`, a dict of tensors.

        `labels` holds `size`, the image's original height and width, which answers need. If the row has boxes, it also
        holds `class_labels` (boxes,) and `boxes` (boxes, 4): centre and extent as fractions of the image. Fractions
        stay the same however the processor resizes the image.
        """
        image = open_rgb(row["image"], self.levels)
        boxes: Any = row.get("boxes")
        names: Any = row.get("labels")
        if train and context.augment != "off":
            change = Augmentation.drawn(context.augment, row["draw"], image.size, mirror=mirrors(context.labels))
            image = change.image(image)
            boxes, kept = change.boxes(boxes)
            names = [names[number] for number in kept]
        processor, size = context.processor, self._fixed_size(context)
        resized = {} if size is None else {"size": {"height": size[0], "width": size[1]}}
        pixels = processor(**processor_input(image, processor), return_tensors="pt", do_pad=False, **resized)[
            "pixel_values"
        ][0]
        labels = {"size": torch.tensor([image.height, image.width])}
        if boxes is not None:
            labels["boxes"] = relative(boxes, image.width, image.height)
            labels["class_labels"] = torch.tensor([output_of(name, row, context) for name in names]).long()
        return {"pixel_values": pixels, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (images, 3, height, width), padded at the bottom and the right where sizes differ.

        There are also `pixel_mask` (images, height, width), for models that take one, and `labels`, one dict of tensors
        per image.
        """
        pixels = [example["pixel_values"] for example in examples]
        height, width = (max(image.shape[axis] for image in pixels) for axis in (1, 2))
        padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in pixels]
        batch: Batch = {"pixel_values": torch.stack(padded)}
        if takes_mask(context.config):
            ones = [torch.ones(image.shape[1:], dtype=torch.long) for image in pixels]
            batch["pixel_mask"] = torch.stack(
                [F.pad(mask, (0, width - mask.shape[1], 0, height - mask.shape[0])) for mask in ones]
            )
        batch["labels"] = [example["labels"] for example in examples]
        return batch

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the loss of the base's family as (sum, weight); an image's weight is its number of boxes, at least 1.

        Boxes are matched within each image. The quotient is transformers' loss of the batch, with two differences. The
        class term of families with softmax is normalised within each image (theirs: over the batch). An image without
        boxes weighs 1 (theirs: 0, unless no image of the batch has any).
        """
        layers, targets = trained_layers(output), batch["labels"]
        counts = weights_of(targets, output.logits.device)
        if not all(layer.finite for layer in layers):  # the training loop handles a loss of NaN
            return output.logits.float().sum() * torch.nan, counts.sum().float()
        losses = [self._layer_loss(layer, targets, counts, context.config) for layer in layers]
        return torch.stack(losses).sum(), counts.sum().float()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return per image all predicted and all true boxes as arrays; boxes are [x, y, width, height] in pixels.

        `error` counts the boxes that are missed, false or of the wrong class, among predictions of at least
        `threshold`.
        """
        records: list[Record] = []
        for found, target in zip(_found(output, batch, context), batch["labels"], strict=True):
            extent = target["size"].flip(0).repeat(2).to(target["boxes"])
            corners = center_to_corners_format(target["boxes"]) * extent
            record = {
                "boxes": _extents(found["boxes"]),
                "scores": found["scores"].cpu().numpy(),
                "labels": found["labels"].cpu().numpy(),
                "true_boxes": _extents(corners),
                "true_labels": target["class_labels"].cpu().numpy(),
            }
            pairs = confusions(record, self.threshold, len(context.labels))
            records.append({**record, "error": sum(true != predicted for true, predicted in pairs)})
        return records

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return COCO's mean average precision over IoU 0.50 to 0.95 (`map`), at 0.50 and at 0.75."""
        found = precision_of(records, len(context.labels)).summary
        # COCO's value is -1 where there is no true box; it must not decide between checkpoints.
        return {name: max(0.0, value) for name, value in zip(("map", "map50", "map75"), found, strict=True)}

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return average precision by class and by size, and the confusion matrix at `threshold`."""
        return findings_of(records, context.labels, self.threshold)

    def api_form(self) -> ApiForm:
        """Return the form of boxes with labels and scores."""
        return objects_form(self.threshold)

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `objects` with a score of at least `threshold`, best first: label, score, box in whole pixels."""
        answers: list[Answer] = []
        for found in _found(output, batch, context):
            order = found["scores"].argsort(descending=True, stable=True)
            kept = order[found["scores"][order] >= self.threshold]
            objects = [
                {
                    "label": context.labels[label],
                    "score": score,
                    "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
                }
                for label, score, box in zip(
                    found["labels"][kept].tolist(),
                    found["scores"][kept].tolist(),
                    found["boxes"][kept].round().long().tolist(),
                    strict=True,
                )
            ]
            answers.append({"objects": objects})
        return answers

    def _fixed_size(self, context: Context) -> tuple[int, int] | None:
        """Return the (height, width) of every input, or None if the processor keeps proportions and there is a mask.

        Without a mask, the model would read padding as image, and answers would depend on the batch.
        """
        size = context.processor.size
        if self.size is not None:
            return self.size
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        if takes_mask(context.config):
            return None
        return int(size["shortest_edge"]), int(size["shortest_edge"])

    def _layer_loss(self, layer: LayerOutput, targets: Sequence[BoxTarget], counts: Tensor, config: Any) -> Tensor:
        """Return the loss of one layer's predictions, summed over the batch."""
        matches = matched(self._matcher(config), layer, targets)
        boxes = box_loss(layer, matches, l1=self.l1_weight, giou=self.giou_weight)
        if config.model_type in VARIFOCAL:
            classes = varifocal_loss(layer, matches, alpha=config.focal_loss_alpha, gamma=config.focal_loss_gamma)
            return boxes + float(config.weight_loss_vfl) * classes
        if config.model_type in FOCAL:
            return boxes + focal_loss(layer, matches, alpha=config.focal_alpha)
        return boxes + softmax_loss(layer, matches, counts, no_object=self.no_object_weight)

    def _matcher(self, config: Any) -> nn.Module:
        """Return the family's Hungarian matcher with this task's costs."""
        own = config.matcher_class_cost if config.model_type in VARIFOCAL else config.class_cost
        cost = own if self.class_cost is None else self.class_cost
        if config.model_type in WITH_NO_OBJECT:
            plain: nn.Module = HungarianMatcher(cost, self.l1_weight, self.giou_weight)
            return plain
        costs = {"class": cost, "bbox": self.l1_weight, "giou": self.giou_weight}
        settings = SimpleNamespace(
            use_focal_loss=True,
            matcher_alpha=getattr(config, "matcher_alpha", 0.25),
            matcher_gamma=getattr(config, "matcher_gamma", 2.0),
            **{f"matcher_{name}_cost": value for name, value in costs.items()},
        )
        focal: nn.Module = RTDetrHungarianMatcher(settings)
        return focal


def takes_mask(config: Any) -> bool:
    """Return whether a configuration's detector reads a padding mask; RT-DETR takes one and ignores it."""
    if config is None or config.model_type in VARIFOCAL:
        return False
    detector = MODEL_FOR_OBJECT_DETECTION_MAPPING.get(type(config), None)
    return detector is not None and "pixel_mask" in inspect.signature(detector.forward).parameters


def relative(boxes: Sequence[Sequence[float]], width: int, height: int) -> Tensor:
    """Return boxes [x, y, width, height] in pixels as shares (centre x, centre y, width, height), cut at the border."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    corners = corners.clamp(min=0) / torch.tensor([width, height, width, height])
    corners = corners.clamp(max=1)
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)


def _found(output: Any, batch: Batch, context: Context) -> list[dict[str, Tensor]]:
    """Return per image scores, labels and corner boxes in pixels, one for each query; boxes are cut at the border.

    Where classes are scored independently, these are the best pairs of query and class, as many as there are queries.
    """
    logits = output.logits.detach().float()
    boxes = center_to_corners_format(output.pred_boxes.detach().float()).clamp(0, 1)
    if context.config.model_type in WITH_NO_OBJECT:
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    else:
        scores, chosen = logits.sigmoid().flatten(1).topk(logits.shape[1])
        labels, query = chosen % logits.shape[2], chosen // logits.shape[2]
        boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    sizes = torch.stack([target["size"] for target in batch["labels"]]).to(scores)
    boxes = boxes * sizes.flip(1).repeat(1, 2)[:, None]
    return [
        {"scores": score, "labels": label, "boxes": box}
        for score, label, box in zip(scores, labels, boxes, strict=True)
    ]


def _extents(corners: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return corner boxes (boxes, 4) as [x, y, width, height]."""
    boxes: np.ndarray[Any, np.dtype[np.float32]]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).float().cpu().numpy()
    return boxes
