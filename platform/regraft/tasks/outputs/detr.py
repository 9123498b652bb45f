"""What a set of predicted boxes costs beside the true ones: matched one to one, image by image, then compared.

Every loss here is a sum over the batch. transformers' own divides by the number of boxes over all processes
(`accelerate.utils.reduce`), in evaluation too: ranks that evaluate different numbers of batches would wait for one
another for ever. Here nothing is reduced, and the training loop divides.
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

Target = Mapping[str, Tensor]
"""The truth about an image: `class_labels` (boxes,); `boxes` (boxes, 4), centre and extent as shares of the image."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What one layer of a detector says of a batch."""

    logits: Tensor
    """(images, queries, outputs)."""
    boxes: Tensor
    """(images, queries, 4), as the targets' boxes."""

    @property
    def finite(self) -> bool:
        """Whether it can be matched: matchers refuse other boxes with an error about corners."""
        return bool(torch.isfinite(self.logits).all() and torch.isfinite(self.boxes).all())


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which query stands for which object; each tensor is (pairs,)."""

    image: Tensor
    query: Tensor
    label: Tensor
    box: Tensor
    """(pairs, 4): the true boxes."""


def weights_of(targets: Sequence[Target], device: torch.device) -> Tensor:
    """(images,): an image weighs as many as it has boxes, or 1 when it has none."""
    return torch.tensor([max(1, len(target["boxes"])) for target in targets], device=device)


def matched(matcher: nn.Module, guess: Guess, targets: Sequence[Target]) -> Pairs:
    """Queries and objects matched by one of transformers' Hungarian matchers, each image by itself."""
    device = guess.logits.device
    boxes = torch.cat([target["boxes"] for target in targets]).to(guess.boxes)
    labels = torch.cat([target["class_labels"] for target in targets]).to(device)
    if not len(boxes):  # the matcher cannot shape a table without columns
        none = torch.zeros(0, dtype=torch.long, device=device)
        return Pairs(none, none, none, boxes)
    found = matcher({"logits": guess.logits, "pred_boxes": guess.boxes}, targets)
    starts = accumulate((len(target["boxes"]) for target in targets), initial=0)
    image = torch.cat([torch.full_like(query, number) for number, (query, _) in enumerate(found)])
    chosen = torch.cat([target + start for (_, target), start in zip(found, starts, strict=False)]).to(device)
    query = torch.cat([query for query, _ in found])
    return Pairs(image.to(device), query.to(device), labels[chosen], boxes[chosen])


def box_loss(guess: Guess, pairs: Pairs, *, l1: float, giou: float) -> Tensor:
    """L1 distance and 1 - GIoU of matched boxes, each with its factor."""
    said = guess.boxes[pairs.image, pairs.query]
    overlap = generalized_box_iou(center_to_corners_format(said), center_to_corners_format(pairs.box)).diagonal()
    loss: Tensor = l1 * F.l1_loss(said, pairs.box, reduction="sum") + giou * (1 - overlap).sum()
    return loss


def softmax_loss(guess: Guess, pairs: Pairs, counts: Tensor, *, no_object: float) -> Tensor:
    """DETR's cross entropy (Carion et al., 2020), whose last class means that there is no object.

    It is normalised within each image and then weighs as the image does, `counts`: DETR's own normaliser is the batch.
    """
    logits = guess.logits
    truth = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    truth[pairs.image, pairs.query] = pairs.label
    weights = torch.ones(logits.shape[2], device=logits.device)
    weights[-1] = no_object
    entropy = F.cross_entropy(logits.transpose(1, 2), truth, weights, reduction="none").sum(1)
    return (counts * entropy / weights[truth].sum(1)).sum()


def varifocal_loss(guess: Guess, pairs: Pairs, *, alpha: float, gamma: float) -> Tensor:
    """RT-DETR's class loss (Zhang et al., 2021): a true class is to be scored by how well its box fits."""
    said = center_to_corners_format(guess.boxes[pairs.image, pairs.query].detach())
    overlap = box_iou(said, center_to_corners_format(pairs.box))[0].diagonal()
    wanted = torch.zeros_like(guess.logits)
    wanted[pairs.image, pairs.query, pairs.label] = overlap.to(wanted)
    true = torch.zeros_like(guess.logits)
    true[pairs.image, pairs.query, pairs.label] = 1.0
    weight = alpha * guess.logits.detach().sigmoid().pow(gamma) * (1 - true) + wanted
    return F.binary_cross_entropy_with_logits(guess.logits, wanted, weight, reduction="sum")


def focal_loss(guess: Guess, pairs: Pairs, *, alpha: float, gamma: float = 2.0) -> Tensor:
    """Deformable DETR's class loss (Lin et al., 2017), of every query and class."""
    true = torch.zeros_like(guess.logits)
    true[pairs.image, pairs.query, pairs.label] = 1.0
    entropy = F.binary_cross_entropy_with_logits(guess.logits, true, reduction="none")
    chance = guess.logits.sigmoid()
    hardness = (1 - chance) * true + chance * (1 - true)
    return ((alpha * true + (1 - alpha) * (1 - true)) * entropy * hardness**gamma).sum()


def guesses(output: Any) -> list[Guess]:
    """What is trained of an output: the last layer, and RT-DETR's inner layers and chosen queries, as its class tells.

    The inner layers of the other families are not told without labels, with which the model would reduce over ranks.
    """
    found = [(output.logits, output.pred_boxes)]
    if getattr(output, "enc_topk_logits", None) is not None:
        inner = output.intermediate_logits.unbind(1), output.intermediate_reference_points.unbind(1)
        found += list(zip(*inner, strict=True))[:-1]
        found.append((output.enc_topk_logits, output.enc_topk_bboxes))
    return [Guess(logits.float(), boxes.float()) for logits, boxes in found]
