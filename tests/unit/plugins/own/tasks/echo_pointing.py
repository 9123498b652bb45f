"""Where on a plane a sound comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

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
    Task,
    medium_of,
    scores_form,
)

AXES = ("x", "y")


class EchoPointing(Task):
    """A point for each sound, scored by its mean distance from the true one."""

    auto: ClassVar[str] = "AutoModelForAudioClassification"
    modality: ClassVar[str] = "echo"
    score: ClassVar[Score] = Score("distance", "min")
    columns: ClassVar[Mapping[str, Kind]] = {"echo": "echo", "point": "point"}

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        """Return the base's own classifier, with an output for each axis."""
        return load(self.auto, labels=AXES, problem_type="regression")

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        """Return `input_values` (frames, bins), and the point under `labels`."""
        example: Example = dict(medium_of(self.modality).tensors(context.processor, row["echo"]))
        return example if row.get("point") is None else {**example, "labels": torch.tensor(row["point"]).float()}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        """Return tensors of all rows."""
        names = set.intersection(*(set(example) for example in examples))
        return {name: torch.stack([example[name] for example in examples]) for name in sorted(names)}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Return the summed squared error and the number of rows."""
        error = (output.logits - batch["labels"]).square().sum()
        return error, torch.tensor(float(len(batch["labels"])), device=error.device)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        """Return the distance of each row."""
        distances = (output.logits.detach() - batch["labels"]).norm(dim=1).tolist()
        return [{"error": distance, "loss": distance**2, "weight": 1.0} for distance in distances]

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        """Return the mean distance."""
        distances = [record["error"] for record in records]
        return {"distance": sum(distances) / len(distances)}

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        """Return `point`, and each axis as a score, as clients read it."""
        points = output.logits.detach().float().cpu().tolist()
        return [
            {"point": point, "scores": [{"label": axis, "score": at} for axis, at in zip(AXES, point, strict=True)]}
            for point in points
        ]

    def api_form(self) -> ApiForm:
        """Return the form of a classifier of sounds."""
        return scores_form("audio", "none", wrapped=False)
