"""Conversion of a scanner's measured values to the grey levels of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (40, 400),
    "bone": (480, 2500),
    "brain": (40, 80),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
}
"""Centre and width in Hounsfield units, as radiologists commonly set them for computed tomography."""


def apply_window(values: NDArray[Any], centre: float, width: float) -> NDArray[np.uint8]:
    """Return measured values as grey levels 0 to 255 by a linear window.

    This is DICOM's function (PS3.3, C.11.2.1.2.1): centre - 0.5 is grey, and width counts values, so that width 1 is a
    threshold.
    """
    scaled = values.astype(np.float64)
    if width <= 1:
        return np.asarray(np.where(scaled <= centre - 0.5, 0, 255), np.uint8)
    grey = ((scaled - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.asarray(np.rint(grey.clip(0, 255)), np.uint8)


def stretch(values: NDArray[Any], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """Return measured values as grey levels: `low` (or the least) becomes 0 and `high` (or the largest) 255."""
    scaled = values.astype(np.float64)
    least = float(scaled.min()) if low is None else low
    most = float(scaled.max()) if high is None else high
    if most <= least:
        return np.zeros(scaled.shape, np.uint8)
    return np.asarray(np.rint(((scaled - least) / (most - least)).clip(0, 1) * 255), np.uint8)
