"""Conversion of measured values, of scanners and 16-bit cameras, to the grey levels of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError

WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (40, 400),
    "bone": (480, 2500),
    "brain": (40, 80),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
}
"""Centre and width in Hounsfield units, as radiologists commonly set them for computed tomography."""


def named_window(written: str | tuple[float, float], *others: str) -> str | tuple[float, float]:
    """Return the centre and width of the window that a spec names, or `written` if it is one of `others`.

    Raises DataError for an unknown name, and for a width that no window has.
    """
    if isinstance(written, str) and written not in others:
        if written not in WINDOWS:
            allowed = ", ".join([*others, *WINDOWS])
            raise DataError(f"{written!r} is written; allowed are {allowed}, or [centre, width]", "data.format.window")
        return WINDOWS[written]
    if not isinstance(written, str) and written[1] < 1:
        raise DataError(f"a width of {written[1]:g} is written; the least is 1, a threshold", "data.format.window")
    return written


def ordered_levels(levels: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the levels of black and white that a spec gives. Raises ValueError where white is not above black."""
    if levels is not None and levels[0] >= levels[1]:
        raise ValueError(f"{list(levels)} is written; black comes first and is below white, as in [0, 4095]")
    return levels


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
