"""Where the objects in an image are, and which label each has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_OBJECT_DETECTION_MAPPING
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import HungarianMatcher, generalized_box_iou

from regraft.augment import Augmentation, mirrors
from regraft.contracts import Answer, Batch, Context, Example, Kind, Loader, Record, Row, Score, Task
from regraft.errors import DataError, Unsupported
from regraft.pictures import opened, seen_size
from regraft.scoring import output_of

WITH_NO_OBJECT = ("detr", "table-transformer", "yolos")
"""Families whose last class means that there is no object; the others (RT-DETR, Deformable DETR) use a focal loss."""
SLACK = 1.0
"""Pixels that a box may stand out of its image: annotation tools round, and those boxes are cut at the border."""


class ObjectDetection(Task):
    """A set of labelled boxes for each image, by models of the DETR kind (Carion et al., 2020)."""

    auto: ClassVar[str] = "AutoModelForObjectDetection"
    modality: ClassVar[Literal["text", "image"]] = "image"
    score: ClassVar[Score] = Score("map", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "boxes": "boxes", "labels": "labels"}

    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] to which every image is resized, whatever its proportions. null is the base's processor's own;
    models that take no padding mask (YOLOS) then get squares of the processor's shortest edge."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Least score of an object in an answer; metrics see all."""
    no_object_weight: float = Field(0.1, gt=0)
    """Weight of the class `no object` in the classification loss."""
    l1_weight: float = Field(5.0, ge=0)
    """Factor of the L1 distance of boxes, in the loss and in the matching."""
    giou_weight: float = Field(2.0, ge=0)
    """Factor of 1 - GIoU (Rezatofighi et al., 2019), in the loss and in the matching."""
    class_cost: float = Field(1.0, gt=0)
    """Factor of the class probability in the matching."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """The base's detector; Unsupported for families with another kind of class output."""
        family = load.config.model_type
        if family not in WITH_NO_OBJECT:
            allowed = ", ".join(WITH_NO_OBJECT)
            raise Unsupported(f"a base of type {family} is written; allowed are {allowed}", where="base")
        return load(self.auto, labels=labels)

    def check(self, row: Row) -> str | None:
        """An unreadable or huge image (the header is read, no pixel decoded), boxes without labels, without area or
        outside of the image."""
        try:
            width, height = seen_size(row["image"])
        except DataError as error:
            return str(error)
        boxes, labels = row.get("boxes"), row.get("labels")
        if boxes is None and labels is None:
            return None
        if len(boxes or ()) != len(labels or ()):
            return f"{len(boxes or ())} boxes and {len(labels or ())} labels: there must be one label a box"
        for number, box in enumerate(boxes or ()):
            if wrong := _box_problem(box, width, height):
                written = ", ".join(f"{value:g}" for value in box)
                return f"box {number} is [{written}] and {wrong}"
        return None

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """`pixel_values` (3, height, width) and `labels`: a dict of tensors.

        `labels` always holds `size`, the image's own height and width, which answers need; it also holds
        `class_labels` (boxes,) and `boxes` (boxes, 4), centre and extent as shares of the image, when the row has
        them. Shares do not change when the image is resized, whichever way its processor does that.
        """
        image, boxes, names = opened(row["image"]), row.get("boxes"), row.get("labels")
        if train and context.augment != "off":
            change = Augmentation.drawn(context.augment, row["draw"], image.size, mirror=mirrors(context.labels))
            image = change.image(image)
            boxes, kept = change.boxes(boxes)
            names = [names[number] for number in kept]
        processor, size = context.processor, self._fixed_size(context)
        resized = {} if size is None else {"size": {"height": size[0], "width": size[1]}}
        pixels = processor(images=image, return_tensors="pt", do_pad=False, **resized)["pixel_values"][0]
        labels = {"size": torch.tensor([image.height, image.width])}
        if boxes is not None:
            labels["boxes"] = relative(boxes, image.width, image.height)
            labels["class_labels"] = torch.tensor([output_of(name, row, context) for name in names]).long()
        return {"pixel_values": pixels, "labels": labels}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """`pixel_values` (images, 3, height, width), padded at the bottom and the right when sizes differ; `pixel_mask`
        (images, height, width) for models that take one; `labels`: one dict of tensors an image."""
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
        """DETR's loss as (sum, weight), an image weighing as many as it has boxes, or 1 when it has none.

        Each image is matched by itself, so the box terms, divided, are DETR's; its class term is normalised within the
        image. transformers' own loss sums the number of boxes over all processes (`accelerate.utils.reduce`), in
        evaluation too: ranks that evaluate different numbers of batches would wait for one another for ever. Here
        nothing is reduced, and the loop divides.
        """
        logits, boxes = output.logits.float(), output.pred_boxes.float()
        targets: list[dict[str, Tensor]] = batch["labels"]
        counts = torch.tensor([max(1, len(target["boxes"])) for target in targets], device=logits.device)
        if not (torch.isfinite(logits).all() and torch.isfinite(boxes).all()):
            # The matcher refuses such boxes with an error about corners; the loop knows what a loss of nan means.
            return logits.sum() * torch.nan, counts.sum().float()
        image, query, target = self._matching(logits, boxes, targets)
        truth = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        truth[image, query] = torch.cat([item["class_labels"] for item in targets])[target]
        weights = torch.ones(logits.shape[2], device=logits.device)
        weights[-1] = self.no_object_weight
        entropy = F.cross_entropy(logits.transpose(1, 2), truth, weights, reduction="none").sum(1)
        total = (counts * entropy / weights[truth].sum(1)).sum()
        return total + self._box_loss(boxes[image, query], targets, target), counts.sum().float()

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Of each image every predicted and every true box, as arrays: boxes [x, y, width, height] in pixels."""
        records: list[Record] = []
        for found, target in zip(_found(output, batch), batch["labels"], strict=True):
            extent = target["size"].flip(0).repeat(2).to(target["boxes"])
            corners = center_to_corners_format(target["boxes"]) * extent
            records.append(
                {
                    "boxes": _extents(found["boxes"]),
                    "scores": found["scores"].cpu().numpy(),
                    "labels": found["labels"].cpu().numpy(),
                    "true_boxes": _extents(corners),
                    "true_labels": target["class_labels"].cpu().numpy(),
                }
            )
        return records

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """COCO's mean average precision over IoU 0.50 to 0.95 (`map`), at 0.50 and at 0.75."""
        truth = COCO(_coco_truth(records, len(context.labels)))
        evaluation = COCOeval_faster(truth, truth.loadRes(_coco_found(records)), iouType="bbox", print_function=_silent)
        evaluation.run()
        names = ("map", "map50", "map75")
        # COCO writes -1 where there is no true box to find; no checkpoint may win by that, nor lose to it.
        return {name: max(0.0, float(value)) for name, value in zip(names, evaluation.stats[:3], strict=True)}

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """`objects` with a score of at least `threshold`, best first: label, score, box in whole pixels."""
        answers: list[Answer] = []
        for found in _found(output, batch):
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
        """(height, width) of every input, or None where the processor keeps proportions and a mask hides the padding.

        Without a mask the model cannot tell padding from image, and an answer would depend on its neighbours.
        """
        size = context.processor.size
        if self.size is not None:
            return self.size
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        if takes_mask(context.config):
            return None
        return int(size["shortest_edge"]), int(size["shortest_edge"])

    def _matching(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Image, query and target number of each matched pair; targets are counted through the whole batch."""
        sizes = [len(target["boxes"]) for target in targets]
        if not sum(sizes):  # the matcher cannot shape a table without columns
            none = torch.zeros(0, dtype=torch.long, device=logits.device)
            return none, none, none
        matcher = HungarianMatcher(class_cost=self.class_cost, bbox_cost=self.l1_weight, giou_cost=self.giou_weight)
        pairs = matcher({"logits": logits, "pred_boxes": boxes}, targets)
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        image = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(pairs)])
        chosen = torch.cat([target + start for (_, target), start in zip(pairs, starts, strict=True)])
        query = torch.cat([query for query, _ in pairs])
        return image.to(logits.device), query.to(logits.device), chosen.to(logits.device)

    def _box_loss(self, boxes: Tensor, targets: Sequence[Mapping[str, Tensor]], chosen: Tensor) -> Tensor:
        """The summed L1 and GIoU terms of matched boxes (pairs, 4)."""
        truth = torch.cat([target["boxes"] for target in targets])[chosen].to(boxes)
        overlap = generalized_box_iou(center_to_corners_format(boxes), center_to_corners_format(truth)).diagonal()
        l1 = F.l1_loss(boxes, truth, reduction="sum")
        loss: Tensor = self.l1_weight * l1 + self.giou_weight * (1 - overlap).sum()
        return loss


def takes_mask(config: Any) -> bool:
    """Whether a configuration's detector reads a padding mask."""
    detector = MODEL_FOR_OBJECT_DETECTION_MAPPING.get(type(config), None)
    return detector is not None and "pixel_mask" in inspect.signature(detector.forward).parameters


def relative(boxes: Sequence[Sequence[float]], width: int, height: int) -> Tensor:
    """Boxes [x, y, width, height] in pixels as shares (centre x, centre y, width, height), cut at the border."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    corners = corners.clamp(min=0) / torch.tensor([width, height, width, height])
    corners = corners.clamp(max=1)
    return torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)


def _box_problem(box: Sequence[float], width: int, height: int) -> str | None:
    if len(box) != 4:
        return f"has {len(box)} numbers; a box is [x, y, width, height]"
    if not np.isfinite(box).all():
        return "has a number that is not finite"
    left, top, across, down = box
    if across <= 0 or down <= 0:
        return "has no area"
    out = left < -SLACK or top < -SLACK or left + across > width + SLACK or top + down > height + SLACK
    # A box that lies wholly in the slack would be cut to nothing.
    empty = left >= width or top >= height or left + across <= 0 or top + down <= 0
    return f"lies outside of its image of {width} x {height} pixels" if out or empty else None


def _found(output: Any, batch: Batch) -> list[dict[str, Tensor]]:
    """Of each image scores, labels and corner boxes in pixels of all queries, boxes cut at the border."""
    scores, labels = output.logits.detach().float().softmax(-1)[..., :-1].max(-1)
    sizes = torch.stack([target["size"] for target in batch["labels"]]).to(scores)
    extents = sizes.flip(1).repeat(1, 2)[:, None]
    boxes = center_to_corners_format(output.pred_boxes.detach().float()).clamp(0, 1) * extents
    return [
        {"scores": score, "labels": label, "boxes": box}
        for score, label, box in zip(scores, labels, boxes, strict=True)
    ]


def _extents(corners: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Corner boxes (boxes, 4) as [x, y, width, height]."""
    boxes: np.ndarray[Any, np.dtype[np.float32]]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).float().cpu().numpy()
    return boxes


def _coco_truth(records: Sequence[Record], classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, record in enumerate(records):
        for box, label in zip(record["true_boxes"].tolist(), record["true_labels"].tolist(), strict=True):
            area = box[2] * box[3]
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            )
    images = [{"id": image} for image in range(len(records))]
    return {"images": images, "annotations": annotations, "categories": [{"id": label} for label in range(classes)]}


def _coco_found(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, record in enumerate(records)
        for box, label, score in zip(
            record["boxes"].tolist(), record["labels"].tolist(), record["scores"].tolist(), strict=True
        )
    ]


def _silent(*words: object) -> None:
    """Instead of the evaluation's table on the screen."""
