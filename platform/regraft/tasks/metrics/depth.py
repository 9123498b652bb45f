"""Errors of predicted depth: by image, and by distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Record
from regraft.contracts.findings import Table

DELTA = 1.25
"""The ratio of predicted and true depth, or its inverse, below which a pixel counts as right."""
_LEAST, _MOST = -10, 14
"""Powers of two of the distances between which errors are counted: 1 mm to 16 km in metres."""
Depths = NDArray[np.float64]


def depth_errors(predicted: Depths, true: Depths) -> dict[str, Any]:
    """Return the mean errors of one image's valid pixels (pixels,), and sums by distance.

    `bands` and `errors` are the number of pixels and their summed relative errors, by the power of two below the true
    depth.
    """
    difference = np.abs(predicted - true)
    relative = difference / true
    positive = np.maximum(predicted, np.finfo(np.float64).tiny)
    within = np.maximum(positive / true, true / positive) < DELTA
    band = (np.floor(np.log2(true)).clip(_LEAST, _MOST) - _LEAST).astype(np.int64)
    width = _MOST - _LEAST + 1
    return {
        "abs_rel": float(relative.mean()),
        "rmse": float(np.sqrt((difference**2).mean())),
        "delta1": float(within.mean()),
        "bands": np.bincount(band, minlength=width),
        "errors": np.bincount(band, relative, minlength=width),
    }


def aligned(predicted: Depths, true: Depths, most: float) -> Depths:
    """Return an inverse depth of unknown scale and shift as the depth that fits the true one best.

    Scale and shift are those of least squares between inverse depths. No depth is above `most`: the spec's largest
    depth, as published evaluations do, or the image's own where none is written, which is kinder.
    """
    wanted = 1 / true
    centred = predicted - predicted.mean()
    spread = float((centred**2).sum())
    scale = float((centred * wanted).sum()) / spread if spread > 0 else 0.0
    found: Depths = 1 / np.maximum(wanted.mean() + scale * centred, 1 / most)
    return found


def by_distance(records: Sequence[Record]) -> Table:
    """Return the relative error of pixels by their true distance."""
    pixels = np.sum([record["bands"] for record in records], axis=0)
    errors = np.sum([record["errors"] for record in records], axis=0)
    rows = tuple(
        (f"{2.0 ** (place + _LEAST):g} to {2.0 ** (place + _LEAST + 1):g}", int(pixels[place]), float(error / count))
        for place, (count, error) in enumerate(zip(pixels.tolist(), errors.tolist(), strict=True))
        if count
    )
    note = "AbsRel over the pixels of all images whose true depth is in the range."
    return Table("By distance", ("true depth", "pixels", "AbsRel"), rows, note)
