"""Segmentation of pedestrians: trains DeepLabV3 on two thirds of Penn-Fudan and measures on the last third.

python tests/benchmarks/pennfudan.py

Every third of the 170 photos in the order of their names is held out, beginning with the third: 56 photos, which also
determine the best epoch. IoU is computed over all their pixels together, at the original size. Takes minutes.
"""

from __future__ import annotations

import base64
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
import torch
import trained

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.locate import locate
from regraft.contracts import Method
from regraft.media.pixels.images import class_numbers
from regraft.serving.predictor import Predictor
from regraft.spec.document import parse_set
from regraft.spec.run import RunSpec
from regraft.training.session import train_local

NAME = "pennfudan"
GOAL = 0.80
"""Person IoU on the held-out photos."""


def main() -> int:
    """Measure the base, train, measure again; return 1 if the goal is missed."""
    options = trained.arguments(__doc__, [NAME])
    with tempfile.TemporaryDirectory(prefix="regraft-pennfudan-") as folder:
        rows = {side: written(Path(folder) / f"{side}.csv", side) for side in ("train", "eval")}
        places = {f"data.{side}": str(Path(folder) / f"{side}.csv") for side in rows}
        spec = trained.resolved(NAME, {**parse_set(options.set), **places}, f"{folder}/store")
        before = person_iou(untrained(spec), rows["eval"])
        print(f"person IoU of the base as it is: {before:.4f}", flush=True)
        outcome = train_local(spec, progress=trained.show)
        after = person_iou(Predictor.open(spec.store, f"{NAME}@latest").adapted, rows["eval"])
    figures: dict[str, Any] = {
        "goal": {"person_iou": GOAL},
        "reached": after >= GOAL,
        "person_iou": after,
        "person_iou_untrained": before,
        "photos": {side: len(found) for side, found in rows.items()},
        "metrics": outcome.metrics,
        "seconds": round(outcome.seconds, 1),
        "delta_bytes": outcome.delta_bytes,
        "base_bytes": outcome.base_bytes,
        "task": spec.task.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "augment": spec.data.augment,
        "training": spec.training.model_dump(mode="json"),
    }
    record.write(NAME, figures, options.results)
    print(f"{NAME}: person IoU {after:.4f}, goal {GOAL}, reached: {figures['reached']}")
    return 0 if figures["reached"] else 1


def written(path: Path, side: str) -> list[dict[str, str]]:
    """Return the rows of one side, and write them as CSV."""
    folder = Path(trained.shared("../shared/data/pennfudan"))
    images = sorted((folder / "Images").iterdir())
    rows = [
        {"image": str(image), "mask": str(folder / "PedMasks" / f"{image.stem}_mask.png")}
        for number, image in enumerate(images, 1)
        if (number % 3 == 0) == (side == "eval")
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, ["image", "mask"])
        out.writeheader()
        out.writerows(rows)
    return rows


def untrained(spec: RunSpec) -> Adapted:
    """Return the base with its own head and all of its labels."""
    base, method = locate(spec.base), Method.parse("feature-extraction")
    assert isinstance(method, Method)
    names_by_number = json.loads((base.path / "config.json").read_text(encoding="utf-8"))["id2label"]
    return adapt(
        base,
        Adaptation(
            task=spec.task,
            method=method,
            labels=tuple(names_by_number[str(number)] for number in range(len(names_by_number))),
            seed=0,
        ),
    )


def person_iou(model: Adapted, rows: list[dict[str, str]]) -> float:
    """Return the intersection over union of the pixels predicted as person, over all photos."""
    person = model.context.labels.index("person")
    both = either = 0
    for number, row in enumerate(rows):
        example = model.task.encode({"row": number, "image": row["image"]}, model.context, train=False)
        batch = model.task.collate([example], model.context)
        with torch.inference_mode():
            answer = model.task.answers(model.forward(batch), batch, model.context)[0]
        found = class_numbers(base64.b64decode(answer["map"])) == person
        true = class_numbers(row["mask"]) > 0
        both, either = both + int((found & true).sum()), either + int((found | true).sum())
    return both / either


if __name__ == "__main__":
    sys.exit(main())
