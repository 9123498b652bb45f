"""Predicted boxes against true ones: COCO's average precision, and counts of mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from regraft.contracts import Record
from regraft.contracts.findings import Findings, Matrix, Table

OVERLAP = 0.5
"""Intersection over union from which a box counts as found."""
NOTHING = "(nothing)"
_SIZES = ("all", "small", "medium", "large")
_AREAS = (0.0, 32.0**2, 96.0**2, 1e10)
"""Limits of COCO's sizes in square pixels of the original image."""

Boxes = NDArray[np.float32]
"""(boxes, 4): [x, y, width, height] in pixels."""


@dataclass(frozen=True, slots=True)
class Precision:
    """COCO's average precision (Lin et al., 2014); -1 where there is no true box."""

    table: NDArray[np.float64]
    """Precision by (thresholds of overlap, recalls, classes, sizes)."""
    summary: tuple[float, float, float]
    """Averaged over the thresholds 0.50 to 0.95, at 0.50, at 0.75."""

    def of(self, label: int | slice = slice(None), size: str = "all", threshold: int | slice = slice(None)) -> float:
        """Return the mean over a part of the table, -1 where it has no true box; threshold 0 is an overlap of 0.50."""
        part = self.table[threshold][..., :, label, _SIZES.index(size)]
        known = part[part > -1]
        return float(known.mean()) if known.size else -1.0


def precision_of(records: Sequence[Record], classes: int) -> Precision:
    """Return the precision over all images; a record holds boxes, scores, labels, true_boxes and true_labels."""
    truth = COCO(_annotations(records, classes))
    evaluation = COCOeval_faster(truth, truth.loadRes(_predictions(records)), iouType="bbox", print_function=_silent)
    evaluation.run()
    table = np.asarray(evaluation.eval["precision"])[..., -1]  # at most 100 boxes per image
    first, second, third = (float(value) for value in evaluation.stats[:3])
    return Precision(table, (first, second, third))


def findings_of(records: Sequence[Record], labels: Sequence[str], threshold: float) -> Findings:
    """Return precision by class and by size, and a confusion matrix of boxes with at least that score."""
    precision = precision_of(records, len(labels))
    counts = np.zeros((len(labels) + 1, len(labels) + 1), dtype=np.int64)
    for record in records:
        for true, predicted in confusions(record, threshold, len(labels)):
            counts[true, predicted] += 1
    names = (*labels, NOTHING)
    shown = f"boxes of a score of at least {threshold:g}, true where they overlap by {OVERLAP:g} (IoU)"
    matrix = Matrix(
        "What was taken for what",
        names,
        names,
        tuple(tuple(row) for row in counts.tolist()),
        f"{shown}; the last row counts false boxes, the last column missed ones",
    )
    return Findings((_by_class(precision, counts, labels, shown), _by_size(precision, records)), (matrix,))


def confusions(record: Record, threshold: float, nothing: int) -> list[tuple[int, int]]:
    """Return class numbers (true, predicted) of each box of an image, `nothing` for a missing one of the two.

    Predicted boxes of at least that score are matched in descending order of score. Each takes the true box that it
    overlaps most and that is still free; boxes of its own class come first.
    """
    kept = np.flatnonzero(record["scores"] >= threshold)
    order = kept[np.argsort(-record["scores"][kept], kind="stable")]
    overlap = overlaps(record["boxes"][order], record["true_boxes"])
    predicted, true = record["labels"][order], record["true_labels"]
    free = np.ones(len(true), dtype=bool)
    pairs: list[tuple[int, int]] = []
    for number, row in enumerate(overlap):
        meets = np.where(free & (row >= OVERLAP), row + (true == predicted[number]), 0.0)
        best = int(meets.argmax()) if meets.any() else -1
        pairs.append((int(true[best]) if best >= 0 else nothing, int(predicted[number])))
        if best >= 0:
            free[best] = False
    return pairs + [(int(label), nothing) for label in true[free]]


def overlaps(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Return the intersection over union of each of `boxes` with each of `others`: (boxes, others)."""
    one, two = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    start, end = (
        np.maximum(one[..., :2], two[..., :2]),
        np.minimum(one[..., :2] + one[..., 2:], two[..., :2] + two[..., 2:]),
    )
    shared = np.clip(end - start, 0, None).prod(-1)
    union: NDArray[np.float64] = one[..., 2:].prod(-1) + two[..., 2:].prod(-1) - shared
    ratio: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def _by_class(precision: Precision, counts: NDArray[np.int64], labels: Sequence[str], shown: str) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for number, label in enumerate(labels):
        right, existing, predicted = (
            int(value) for value in (counts[number, number], counts[number].sum(), counts[:, number].sum())
        )
        rows.append(
            (
                label,
                existing,
                _known(precision.of(number)),
                _known(precision.of(number, threshold=0)),
                right,
                existing - right,
                predicted - right,
            )
        )
    columns = ("label", "true boxes", "AP", "AP50", "found", "missed", "false")
    return Table(
        "By class", columns, tuple(rows), f"AP is over overlaps of 0.50 to 0.95; found, missed and false: {shown}"
    )


def _by_size(precision: Precision, records: Sequence[Record]) -> Table:
    areas = np.concatenate([record["true_boxes"][:, 2:].prod(1) for record in records] or [np.zeros(0)])
    rows = []
    for size, low, high in zip(_SIZES[1:], _AREAS, _AREAS[1:], strict=False):
        count = int(((areas >= low) & (areas < high)).sum())
        rows.append((size, count, _known(precision.of(size=size)), _known(precision.of(size=size, threshold=0))))
    note = "small is below 32 x 32 pixels of the original image, large from 96 x 96"
    return Table("By size", ("size", "true boxes", "AP", "AP50"), tuple(rows), note)


def _known(value: float) -> float | None:
    """Return None for COCO's -1, which means that there is no true box."""
    return None if value < 0 else value


def _annotations(records: Sequence[Record], classes: int) -> dict[str, Any]:
    """Return the true boxes in COCO's format."""
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


def _predictions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the predicted boxes in COCO's format."""
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, record in enumerate(records)
        for box, label, score in zip(
            record["boxes"].tolist(), record["labels"].tolist(), record["scores"].tolist(), strict=True
        )
    ]


def _silent(*words: object) -> None:
    """Print nothing in place of the evaluation's table."""
