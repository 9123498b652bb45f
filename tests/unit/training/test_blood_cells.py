"""Object detection on real images: a small YOLOS from random weights memorises 16 of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import regraft
from regraft.contracts.findings import Findings
from regraft.data.sources.voc import Voc
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from support.blood_cells import BCCD, document


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_pictures_are_learnt_to_ap50_of_seventeen_twentieths(tmp_path: Path) -> None:
    """Red and white cells; platelets are smaller than a patch of this detector."""
    if not BCCD.is_dir():
        pytest.skip(f"no BCCD in {BCCD}: set REGRAFT_SHARED")
    spec = RunSpec.resolve(document(tmp_path))
    outcome = train_local(spec)
    found = found_of(regraft.load("blood-cells", store=spec.store), tmp_path / "bccd")
    by_class = {row[0]: dict(zip(found.tables[0].columns, row, strict=True)) for row in found.tables[0].rows}
    print(f"{outcome.seconds:.0f} s, mAP50 {outcome.metrics['map50']:.3f}", {k: v["AP50"] for k, v in by_class.items()})
    for label in ("RBC", "WBC"):
        assert by_class[label]["AP50"] >= 0.85  # type: ignore[operator]


def found_of(model: Predictor, folder: Path) -> Findings:
    """What the model finds on the pictures that it learnt."""
    task, context = model.adapted.task, model.adapted.context
    rows = [{**raw.values, "row": number} for number, raw in enumerate(Voc(part="some").read(folder))]
    batch = task.collate([task.encode(row, context, train=False) for row in rows], context)
    with torch.no_grad():
        records = task.records(model.adapted.forward(batch), batch, context)
    return task.findings(records, context)
