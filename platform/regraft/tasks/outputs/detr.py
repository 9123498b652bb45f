"""Losses of predicted sets of boxes: matched with the true boxes one to one within each image, then compared.

Every loss is a sum over the batch, and the training loop divides. transformers' own losses divide by the number of
boxes over all processes (`accelerate.utils.reduce`), in evaluation too: ranks that evaluate different numbers of
batches would wait for one another for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import box_iou, generalized_box_iou

BoxTarget = Mapping[str, Tensor]
"""True boxes of an image: `class_labels` (boxes,); `boxes` (boxes, 4), centre and extent as shares of the image."""


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """Predictions of one layer of a detector for a batch."""

    logits: Tensor
    """(images, queries, outputs)."""
    boxes: Tensor
    """(images, queries, 4), as the targets' boxes."""

    @property
    def finite(self) -> bool:
        """True if all numbers are finite; a matcher would refuse others with an error about corners."""
        return bool(torch.isfinite(self.logits).all() and torch.isfinite(self.boxes).all())


@dataclass(frozen=True, slots=True)
class Matches:
    """Queries matched with true boxes; each tensor is (matches,)."""

    image: Tensor
    query: Tensor
    label: Tensor
    box: Tensor
    """(matches, 4): the true boxes."""


def weights_of(targets: Sequence[BoxTarget], device: torch.device) -> Tensor:
    """Return the weight of each image, (images,): its number of boxes, or 1 without boxes."""
    return torch.tensor([max(1, len(target["boxes"])) for target in targets], device=device)


def matched(matcher: nn.Module, prediction: LayerOutput, targets: Sequence[BoxTarget]) -> Matches:
    """Match queries with true boxes within each image, by one of transformers' Hungarian matchers."""
    device = prediction.logits.device
    boxes = torch.cat([target["boxes"] for target in targets]).to(prediction.boxes)
    labels = torch.cat([target["class_labels"] for target in targets]).to(device)
    if not len(boxes):  # the matcher fails on a cost matrix without columns
        none = torch.zeros(0, dtype=torch.long, device=device)
        return Matches(none, none, none, boxes)
    found = matcher({"logits": prediction.logits, "pred_boxes": prediction.boxes}, targets)
    starts = accumulate((len(target["boxes"]) for target in targets), initial=0)
    image = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(found)])
    chosen = torch.cat([target + start for (_, target), start in zip(found, starts, strict=False)]).to(device)
    query = torch.cat([query for query, _ in found])
    return Matches(image.to(device), query.to(device), labels[chosen], boxes[chosen])


def box_loss(prediction: LayerOutput, matches: Matches, *, l1: float, giou: float) -> Tensor:
    """Return the L1 distance and 1 - GIoU of matched boxes, each times its factor, summed."""
    predicted = prediction.boxes[matches.image, matches.query]
    overlap = generalized_box_iou(center_to_corners_format(predicted), center_to_corners_format(matches.box)).diagonal()
    loss: Tensor = l1 * F.l1_loss(predicted, matches.box, reduction="sum") + giou * (1 - overlap).sum()
    return loss


def softmax_loss(prediction: LayerOutput, matches: Matches, counts: Tensor, *, no_object: float) -> Tensor:
    """Return DETR's cross entropy (Carion et al., 2020), whose last class means that there is no object.

    It is normalised within each image and multiplied by the image's weight, `counts`; DETR normalises over the batch.
    """
    logits = prediction.logits
    truth = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    truth[matches.image, matches.query] = matches.label
    weights = torch.ones(logits.shape[2], device=logits.device)
    weights[-1] = no_object
    entropy = F.cross_entropy(logits.transpose(1, 2), truth, weights, reduction="none").sum(1)
    return (counts * entropy / weights[truth].sum(1)).sum()


def varifocal_loss(prediction: LayerOutput, matches: Matches, *, alpha: float, gamma: float) -> Tensor:
    """Return RT-DETR's class loss (Zhang et al., 2021): the target of a true class is the overlap of its box."""
    predicted = center_to_corners_format(prediction.boxes[matches.image, matches.query].detach())
    overlap = box_iou(predicted, center_to_corners_format(matches.box))[0].diagonal()
    wanted = torch.zeros_like(prediction.logits)
    wanted[matches.image, matches.query, matches.label] = overlap.to(wanted)
    true = torch.zeros_like(prediction.logits)
    true[matches.image, matches.query, matches.label] = 1.0
    weight = alpha * prediction.logits.detach().sigmoid().pow(gamma) * (1 - true) + wanted
    return F.binary_cross_entropy_with_logits(prediction.logits, wanted, weight, reduction="sum")


def focal_loss(prediction: LayerOutput, matches: Matches, *, alpha: float, gamma: float = 2.0) -> Tensor:
    """Return Deformable DETR's class loss (Lin et al., 2017), over all queries and classes."""
    true = torch.zeros_like(prediction.logits)
    true[matches.image, matches.query, matches.label] = 1.0
    entropy = F.binary_cross_entropy_with_logits(prediction.logits, true, reduction="none")
    chance = prediction.logits.sigmoid()
    hardness = (1 - chance) * true + chance * (1 - true)
    return ((alpha * true + (1 - alpha) * (1 - true)) * entropy * hardness**gamma).sum()


def trained_layers(output: Any) -> list[LayerOutput]:
    """Return the predictions that are trained: the last layer's, and RT-DETR's inner layers' and selected queries'.

    Other families return their inner layers only with labels, with which the model would reduce over ranks.
    """
    found = [(output.logits, output.pred_boxes)]
    if getattr(output, "enc_topk_logits", None) is not None:
        inner = output.intermediate_logits.unbind(1), output.intermediate_reference_points.unbind(1)
        found += list(zip(*inner, strict=True))[:-1]
        found.append((output.enc_topk_logits, output.enc_topk_bboxes))
    return [LayerOutput(logits.float(), boxes.float()) for logits, boxes in found]
