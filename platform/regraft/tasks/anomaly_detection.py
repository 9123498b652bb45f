"""Anomaly detection: images that differ from good ones, learned from good ones alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.contracts import Answer, ApiForm, Batch, Context, Example, Kind, Loader, Record, Row, Score
from regraft.contracts.api_form import anomaly_form
from regraft.contracts.detection import Detection
from regraft.contracts.exported import ExportParts
from regraft.contracts.findings import Curve, Findings
from regraft.errors import DataError
from regraft.media.pixels.heat import heat_png
from regraft.media.pixels.images import checked_size, image_name, open_rgb
from regraft.tasks.inputs.levels import GreyLevels
from regraft.tasks.inputs.mask_values import MaskValues, other_size
from regraft.tasks.inputs.patches import PatchNetwork
from regraft.tasks.inputs.whole_image import whole_options, whole_pixels
from regraft.tasks.metrics.anomalies import binned, detection_metrics, kinds_table
from regraft.tasks.outputs.conformal import UsualScores
from regraft.tasks.outputs.detector_export import detector_parts

_GOOD, _DEFECT = "good", "defect"
_MASKS = MaskValues((_GOOD, _DEFECT), "nonzero", None, None, 0)


class AnomalyDetection(GreyLevels):
    """What differs from good images: a score and a p-value for each image, and a heat map of its pixels.

    Only good rows are learned from: those whose `label` is one of `good`, and those without a label. Rows of defects
    are evaluated, by kind; a `mask` marks where the defect is. An image is an anomaly where its p-value is at most
    `false_alarms`, the share of good images for which that happens. Metrics: `auroc` and `pixel_auroc` rank images and
    pixels, 0.5 where there is nothing to rank; `f1` is that of anomalies; `missed` is the share of defects without an
    alarm.
    """

    synonyms: ClassVar[frozenset[str]] = frozenset(
        {"anomaly", "image-anomaly-detection", "defect-detection", "novelty-detection", "one-class-classification"}
    )
    auto: ClassVar[str] = "AutoModel"
    modality: ClassVar[str] = "image"
    score: ClassVar[Score] = Score("auroc", "max")
    columns: ClassVar[Mapping[str, Kind]] = {"image": "image", "label": "defect", "mask": "defect-mask"}
    supports: ClassVar[frozenset[str]] = frozenset({"patches"})
    takes_steps: ClassVar[bool] = False
    proposed: ClassVar[bool] = False
    answer_fields: ClassVar[frozenset[str]] = frozenset({"false_alarms"})

    good: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(("good", "normal", "ok"), min_length=1)
    """Labels, or names of folders, of rows without a defect; capitals do not matter."""
    false_alarms: float = Field(0.05, gt=0, lt=1)
    """The share of good images that may be called an anomaly."""
    layers: tuple[NonNegativeInt, ...] | None = Field(None, min_length=1)
    """Numbers of the base's hidden states that are read, 0 for the stem's; null: the last ones whose places are 8 and
    16 pixels apart, or the last of all where every layer has the same places."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """[height, width] to which every image is resized; null is the size of the base's image processor."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base with its patches, and without a detector, which the method adds."""
        return PatchNetwork(load(self.auto, add_pooling_layer=False), self.layers)

    def export_parts(self, model: nn.Module, context: Context) -> ExportParts | None:
        """Return the base, the detector's tensors, and code that scores a picture with both."""
        return detector_parts(model, whole_options(context.processor, self.size))

    def fitted_layer(self, model: nn.Module) -> nn.Module | None:
        """Return the detector."""
        return model.get_submodule("detector")

    def usual_labels(self) -> tuple[str, ...]:
        """Return the labels of good rows."""
        return self.good

    def largest_usual(self, layer: nn.Module) -> float | None:
        """Return the score from which on a p-value is twice as large as that of an anomaly may be."""
        held: Any = layer
        usual = UsualScores.of(held.usual.detach().float().cpu().numpy(), float(held.count.detach()))
        return None if usual.limit(self.false_alarms) is None else usual.limit(min(0.9, 2 * self.false_alarms))

    def is_good(self, label: str | None) -> bool:
        """Return whether a label says that there is no defect."""
        return label is None or label.casefold() in {word.casefold() for word in self.good}

    def fit_to_sample(self, rows: Iterable[Row]) -> Self:
        """Return the task as it is. Raises DataError where no row of the sample is good."""
        labels = {row.get("label") for row in rows}
        if labels and not any(map(self.is_good, labels)):
            named = ", ".join(sorted(map(repr, labels))[:8])
            raise DataError(
                f"no training row is good: labels are {named}, and task.good lists {', '.join(self.good)}; write there "
                "what good rows are called",
                where="data.train",
            )
        return self

    def check(self, row: Row) -> str | None:
        """Refuse an unreadable or huge image, a mask of another size, and a good row whose mask marks a defect."""
        try:
            size = checked_size(row["image"], self.levels)
            if (mask := row.get("mask")) is None:
                return None
            found = _MASKS.pixels(mask)
        except DataError as error:
            return str(error)
        if found.shape != size[::-1]:
            return other_size(row, found.shape, size)
        marked = int((found != 0).sum())
        if marked and row.get("label") is not None and self.is_good(row["label"]):
            return (
                f"is labelled {row['label']!r}, and its mask {image_name(mask)} marks {marked:,} pixels as a defect: "
                "correct one of the two"
            )
        return None

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `pixel_values` (3, height, width) and `labels`: `size`, the image's height and width.

        A row with targets also has `kind` there, a word, and `defect`, 0 or 1; `mask`, (height, width) of the image,
        where its pixels are known.
        """
        image = open_rgb(row["image"], self.levels)
        labels: dict[str, Any] = {"size": torch.tensor([image.height, image.width])}
        if "label" in row:
            labels |= self._truth(row, (image.height, image.width))
        return {"pixel_values": whole_pixels(image, context.processor, self.size), "labels": labels}

    def _truth(self, row: Row, size: tuple[int, int]) -> dict[str, Any]:
        label, file = row["label"], row.get("mask")
        mask = None if file is None else _MASKS.numbers(file).astype(np.uint8)
        marked = mask is not None and bool(mask.any())
        good = self.is_good(label) and not marked
        if mask is None and good:
            mask = np.zeros(size, np.uint8)
        found = {"kind": _GOOD if good else label or _DEFECT, "defect": torch.tensor(int(not good))}
        return found if mask is None else {**found, "mask": torch.from_numpy(mask)}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return `pixel_values` (images, 3, height, width) and `labels`, one dict per image."""
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": [example["labels"] for example in examples],
        }

    def fit_targets(self, batch: Batch) -> Tensor:
        """Return 0 for good rows and -1 for defects, (rows,)."""
        return -torch.stack([target["defect"] for target in batch["labels"]])

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the sum of the scores and their number; no method of this task takes steps by it."""
        total: Tensor = output.score.float().sum()
        return total, torch.tensor(float(len(output.score)), device=total.device)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return each image's `score`, `p_value`, `kind`, whether it is a `defect` and was `raised`.

        Where its pixels are known, `bins` are those of pixel scores that it has, with the numbers of `usual` and
        `unusual` pixels in each.
        """
        records: list[Record] = []
        for row, target in zip(_rows(output), batch["labels"], strict=True):
            defect, chance = bool(target["defect"]), row.scores.p_value(row.score)
            raised = chance <= self.false_alarms
            record: Record = {
                "score": row.score,
                "p_value": chance,
                "kind": target["kind"],
                "defect": defect,
                "raised": raised,
                "correct": int(raised == defect),
                "error": chance if defect else 1 - chance,
                "bins": None,
            }
            records.append({**record, **_pixel_record(row, target["mask"])} if "mask" in target else record)
        return records

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return `auroc`, `f1`, `false_alarms`, `missed`, and `pixel_auroc` where masks are known."""
        return detection_metrics(records)

    def findings(self, records: Sequence[Record], context: Context) -> Findings:
        """Return a table by kind of defect, and how p-values of good rows are spread: evenly, where they hold."""
        chances = np.sort([record["p_value"] for record in records if not record["defect"]])
        curves: tuple[Curve, ...] = ()
        if len(chances) > 1:
            shares = (np.arange(len(chances)) + 1) / len(chances)
            points = tuple(zip(chances.tolist(), shares.tolist(), strict=True))
            note = "Good rows: the share that is called an anomaly where so many false alarms are asked for."
            ideal = ((0.0, 0.0), (1.0, 1.0))
            curves = (Curve("False alarms", "asked for", "raised", points, ideal=ideal, note=note),)
        return Findings(tables=(kinds_table(records),), curves=curves)

    def api_form(self) -> ApiForm:
        """Return the form of scores with a heat map."""
        return anomaly_form()

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `score`, `p_value`, `is_anomaly`, and `threshold`, the score from which on an image is one.

        `heat_map` is a PNG in base64 of the image's size, 8 bits of grey: 128 at the threshold, twice that is white.
        The threshold is null where too few good rows were learned from for so few false alarms; nothing is an anomaly
        then.
        """
        answers: list[Answer] = []
        for row, target in zip(_rows(output), batch["labels"], strict=True):
            limit, chance = row.scores.limit(self.false_alarms), row.scores.p_value(row.score)
            scale = limit if limit is not None else max([*row.scores.largest[:1].tolist(), row.score])
            answers.append(
                {
                    "score": row.score,
                    "p_value": chance,
                    "is_anomaly": chance <= self.false_alarms,
                    "threshold": limit,
                    "heat_map": heat_png(row.heat(target["size"].tolist()), scale),
                }
            )
        return answers


class _FoundRow:
    """One row of a detection, on the CPU."""

    def __init__(self, places: Tensor, score: float, scores: UsualScores) -> None:
        self._places, self.score, self.scores = places, score, scores

    def heat(self, size: Sequence[int]) -> NDArray[np.float32]:
        """Return the distances of all pixels of an image of this height and width."""
        places = self._places[None, None]
        full = F.interpolate(places, size=tuple(size), mode="bilinear", align_corners=False)
        return full[0, 0].numpy()


def _rows(output: Detection) -> list[_FoundRow]:
    places, usual = output.map.detach().float().cpu(), output.usual.detach()[:1].float().cpu().numpy()
    counts, scores = output.count.tolist(), output.score.float().tolist()
    known = [UsualScores.of(usual[0], count) for count in counts[:1]] * len(scores)
    return [_FoundRow(*row) for row in zip(places, scores, known, strict=True)]


def _pixel_record(row: _FoundRow, mask: Tensor) -> Record:
    heat, marked = row.heat(mask.shape), mask.cpu().numpy().astype(bool)
    usual, unusual = (binned(heat[where], row.scores.middle) for where in (~marked, marked))
    filled = np.flatnonzero(usual + unusual)
    return {"bins": filled, "usual": usual[filled], "unusual": unusual[filled]}
