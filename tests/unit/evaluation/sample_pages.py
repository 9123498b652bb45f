"""Sample pages without a model: findings and row views of every kind, as an evaluation passes them to the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from regraft.contracts.findings import Curve, Findings, Matrix, Table
from regraft.contracts.views import (
    AnswerView,
    Box,
    BoxesView,
    ConversationView,
    EntitiesView,
    ImageView,
    MaskView,
    TextView,
    ViewPart,
)
from regraft.evaluation.page import page
from regraft.evaluation.row_views import RowView
from regraft.evaluation.thumbnails import Thumbnails
from regraft.evaluation.worst_rows import WorstRows
from regraft.media.pixels.mask_overlay import overlaid


def findings(labels: Sequence[str] = ("ant", "bee", "wasp")) -> Findings:
    """Return a table, a matrix and three curves for these labels."""
    counts = tuple(tuple(9 if one == other else 1 for other in labels) for one in labels)
    return Findings(
        tables=(Table("By label", ("label", "f1", "rows"), tuple((name, 0.5, 11) for name in labels), "a note"),),
        matrices=(Matrix("Confusion", tuple(labels), tuple(labels), counts),),
        curves=(
            Curve("Reliability", "predicted", "seen", ((0.1, 0.2), (0.9, 0.8)), (3, 9), ((0, 0), (1, 1))),
            Curve("Losses", "step", "loss", ((0.0, 250.0), (10.0, 120.0), (20.0, 60.0))),
            Curve("Cloud", "true", "predicted", ((-3.0, -2.0), (1.0, 4.0)), joined=False),
        ),
    )


def row_views(text: str = "a bee on a leaf", label: str = "bee") -> tuple[RowView, ...]:
    """Return a row view for each kind of column."""
    thumbnails = Thumbnails()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8))
    large = image.resize((600, 400))
    classes = np.zeros((400, 600), np.int64)
    classes[100:200, 100:300] = 1
    shown: list[tuple[ViewPart, ...]] = [
        (TextView("text", text), AnswerView("label", (label,), ("wasp",), (("wasp", 0.7), (label, 0.0001)))),
        (TextView("first", text), TextView("second", text, 12), AnswerView("label", (label,), ("wasp",))),
        (EntitiesView("tokens", ((text, label, False),), (("a ", "", True), (text, label, True))),),
        (ImageView("image", thumbnails.add(image)), AnswerView("label", (label,), ("wasp",))),
        (ImageView("image", None), AnswerView("labels", (label, "ant"), (), (), several=True)),
        (
            BoxesView(
                "image", thumbnails.add(large), (Box(label, 100, 50, 80, 90),), (Box(label, 90, 60, 80, 90, 0.83),)
            ),
        ),
        (
            MaskView(
                "image", thumbnails.add(overlaid(large, classes, [1])), thumbnails.add(large), ((label, "#0072b2"),)
            ),
        ),
        (TextView("source", text), AnswerView("target", (f"{text} and on", text), (f"{text} {text} {text} {text}",))),
        (ConversationView("messages", (("user", text), ("assistant", label))),),
        (TextView("text", text), AnswerView("target", ("1.25",), ("-3.5",))),
    ]
    return tuple(RowView(number, 1.0 - number / 20, True, parts, file=label) for number, parts in enumerate(shown))


def document(found: Findings, **changes: Any) -> dict[str, Any]:
    """Return the content of evaluation.json."""
    return {
        "format": 1,
        "model": "insects",
        "version": "v3",
        "id": "0" * 32,
        "delta_sha256": "1" * 64,
        "base": {"reference": "some/base", "hash": "2" * 64},
        "task": {"type": "image-classification"},
        "method": {"type": "lora", "rank": 16},
        "labels": ["ant", "bee", "wasp"],
        "data": {"path": "rows.csv", "rows": 33, "skipped": {}, "fingerprint": "3" * 64, "columns": {}},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 3.25,
        "device": "cpu",
        "regraft": "0.1.0",
        "score": {"name": "accuracy", "mode": "max"},
        "metrics": {"loss": 0.25, "accuracy": 0.75},
        "intervals": {"accuracy": {"low": 0.5, "high": 0.875}},
        "bootstrap": {"method": "percentile", "confidence": 0.95, "resamples": 1000, "seed": 0, "note": ""},
        "recorded": {"metrics": {"accuracy": 0.8, "loss": 0.2}, "baselines": {"majority": {"accuracy": 0.33}}},
        "findings": asdict(found),
        "wrong": 8,
        "worst": [],
        "against": None,
        "notes": [],
        "overlap": {"train": 0, "chosen_by": 0, "sentence": "No row here was a training row of this version"},
        "beside_baselines": {
            "sentence": "By accuracy, this model is better than the baseline majority.",
            "verdicts": [],
        },
        **changes,
    }


def html(found: Findings | None = None, shown: tuple[RowView, ...] | None = None, **changes: Any) -> str:
    """Return a complete page."""
    found = findings() if found is None else found
    return page(document(found, **changes), found, WorstRows(row_views() if shown is None else shown, 8))
