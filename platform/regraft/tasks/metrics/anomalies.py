"""Metrics of detectors of anomalies: ranking of images and of pixels, and what is raised at the limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Record
from regraft.contracts.findings import Table

BINS, PER_OCTAVE = 1024, 48
"""Bins of pixel scores, and how many of them there are between a score and twice that score."""


def auroc(usual: NDArray[np.floating], unusual: NDArray[np.floating]) -> float:
    """Return the chance that an unusual score is above a usual one, ties counted half; 0.5 where a side is empty."""
    if not len(usual) or not len(unusual):
        return 0.5
    ordered = np.sort(usual)
    below, upto = (np.searchsorted(ordered, unusual, side) for side in ("left", "right"))
    return float((below + upto).sum() / 2 / len(usual) / len(unusual))


def binned(scores: NDArray[np.float32], scale: float) -> NDArray[np.int64]:
    """Return the number of pixels in each bin of scores, (BINS,); bins are equal in the logarithm."""
    with np.errstate(divide="ignore"):
        places = np.round(np.log2(scores.ravel() / scale) * PER_OCTAVE) + BINS // 2
    return np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS)


def auroc_of_bins(usual: NDArray[np.int64], unusual: NDArray[np.int64]) -> float:
    """Return the same as `auroc` for scores that are counted in bins."""
    if not usual.sum() or not unusual.sum():
        return 0.5
    below = np.cumsum(usual) - usual
    return float((unusual * (below + usual / 2)).sum() / usual.sum() / unusual.sum())


def pixel_bins(records: Sequence[Record]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bins of usual pixels and of marked ones, over records that hold them."""
    usual, unusual = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for record in records:
        if record["bins"] is not None:
            np.add.at(usual, record["bins"], record["usual"])
            np.add.at(unusual, record["bins"], record["unusual"])
    return usual, unusual


def detection_metrics(records: Sequence[Record]) -> dict[str, float]:
    """Return AUROC of images and of pixels, F1 of anomalies, and the shares of false and of missed alarms."""
    scores = np.array([record["score"] for record in records])
    defect = np.array([record["defect"] for record in records], bool)
    raised = np.array([record["raised"] for record in records], bool)
    hits = int((raised & defect).sum())
    found = {
        "auroc": auroc(scores[~defect], scores[defect]),
        "f1": 2 * hits / total if (total := int(raised.sum() + defect.sum())) else 1.0,
        "false_alarms": _share(raised[~defect]),
        "missed": _share(~raised[defect]),
    }
    if any(record["bins"] is not None for record in records):
        found["pixel_auroc"] = auroc_of_bins(*pixel_bins(records))
    return found


def kinds_table(records: Sequence[Record]) -> Table:
    """Return AUROC against good rows, and how many were raised, of each kind of defect."""
    good = [record for record in records if not record["defect"]]
    usual = np.array([record["score"] for record in good])
    rows: list[tuple[str | int | float | None, ...]] = []
    for kind in sorted({record["kind"] for record in records if record["defect"]}):
        of_kind = [record for record in records if record["defect"] and record["kind"] == kind]
        scores = np.array([record["score"] for record in of_kind])
        masked = [record for record in of_kind if record["bins"] is not None]
        pixels = auroc_of_bins(*pixel_bins(masked)) if masked else None
        raised = _share(np.array([record["raised"] for record in of_kind], bool))
        rows.append((kind, len(of_kind), auroc(usual, scores) if good else None, pixels, raised))
    if good:
        raised = _share(np.array([record["raised"] for record in good], bool))
        rows.append(("good", len(good), None, None, raised))
    columns = ("kind", "rows", "AUROC", "pixel AUROC", "alarms")
    note = (
        "AUROC is against all good rows, that of pixels within the kind's own images; alarms is the share of rows "
        "that are called an anomaly, of good ones the false alarms."
    )
    return Table("Kinds of defects", columns, tuple(rows), note)


def _share(raised: NDArray[np.bool_]) -> float:
    return float(raised.mean()) if raised.size else 0.0
