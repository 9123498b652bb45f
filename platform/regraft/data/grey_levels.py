"""From what a scanner measured to the grey levels of an image."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
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


def windowed(values: NDArray[Any], centre: float, width: float) -> NDArray[np.uint8]:
    """Measured values as grey levels 0 to 255 by a linear window.

    DICOM's own function (PS3.3, C.11.2.1.2.1): centre - 0.5 is grey, and width counts values, so that width 1 is a
    threshold.
    """
    scaled = values.astype(np.float64)
    if width <= 1:
        return np.asarray(np.where(scaled <= centre - 0.5, 0, 255), np.uint8)
    grey = ((scaled - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.asarray(np.rint(grey.clip(0, 255)), np.uint8)


def stretched(values: NDArray[Any], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    """Measured values as grey levels: `low` (or the least) becomes 0 and `high` (or the largest) 255."""
    scaled = values.astype(np.float64)
    least = float(scaled.min()) if low is None else low
    most = float(scaled.max()) if high is None else high
    if most <= least:
        return np.zeros(scaled.shape, np.uint8)
    return np.asarray(np.rint(((scaled - least) / (most - least)).clip(0, 1) * 255), np.uint8)


class Table:
    """A CSV file that says more of files than they do themselves: labels by file name, patient or study."""

    def __init__(self, path: Path, key: str) -> None:
        """`key` is the column by which rows are found; DataError when the file has none of that name."""
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"cannot be read as CSV: {error}", str(path)) from None
        if not rows or key not in rows[0]:
            has = ", ".join(map(repr, rows[0])) if rows else "no rows"
            raise DataError(f"has no column {key!r}; it has {has}: write data.format.table_key", str(path))
        self._path, self._key = path, key
        self._rows: dict[str, Mapping[str, Any]] = {_plain(row[key]): row for row in rows}

    def about(self, name: str) -> Mapping[str, Any] | None:
        """The row of that name, with or without the suffix of a file; None when there is none."""
        return self._rows.get(_plain(name))

    def absent(self, name: str) -> str:
        """What is said where there is none."""
        return f"{self._path} has no row whose {self._key} is {name!r}: add one, or leave the file out"


def _plain(name: str) -> str:
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    for suffix in (".gz", ".nii", ".dcm", ".dicom"):
        name = name.removesuffix(suffix)
    return name
