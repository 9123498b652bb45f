"""Meaning of a depth map's numbers: distances, or inverse ones, and the pixels that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Row
from regraft.media.pixels.depth_maps import stored_depths
from regraft.media.pixels.images import image_name
from regraft.media.pixels.picture_sizes import picture_size

MILLIMETRES = 0.001
"""Metres in a whole number of a depth map whose scale is not written."""
Depths = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DepthValues:
    """What the fields of a task say about the numbers of a depth map."""

    maps: Literal["depth", "inverse"]
    scale: float | None
    ignore: float | None
    least: float | None
    most: float | None

    def depths(self, depth_map: Any) -> Depths:
        """Return the depth of each pixel (height, width), 0 where it has none. Raises DataError as `stored_depths`."""
        return self.of(stored_depths(depth_map))

    def of(self, stored: NDArray[Any]) -> Depths:
        """Return the depth of each pixel by the stored numbers, 0 where it has none.

        Numbers that are not above 0, infinite or NaN, the number `ignore`, and depths out of range are none.
        """
        numbers = stored.astype(np.float64)
        valid = np.isfinite(numbers) & (numbers > 0)
        if self.ignore is not None:
            valid &= numbers != self.ignore
        scaled = np.where(valid, numbers, 1.0) * (self.scale or (MILLIMETRES if stored.dtype.kind in "ui" else 1.0))
        with np.errstate(over="ignore", divide="ignore"):
            found = (1 / scaled if self.maps == "inverse" else scaled).astype(np.float32)
        valid &= np.isfinite(found) & (found > 0)
        if self.least is not None:
            valid &= found >= self.least
        if self.most is not None:
            valid &= found <= self.most
        return np.where(valid, found, np.float32(0))

    def problem(self, row: Row, size: tuple[int, int]) -> str | None:
        """Return what is wrong with a row's depth map beside an image of that (width, height), or None."""
        stored = stored_depths(row["depth"])
        name = image_name(row["depth"])
        if stored.shape != size[::-1]:
            return _other_size(row, stored.shape, size)
        if self.of(stored).any():
            return None
        finite = stored[np.isfinite(stored)]
        values = f"its values are {finite.min():g} to {finite.max():g}" if finite.size else "no value is a number"
        return f"depth {name} has no valid pixel: {values}, and valid are numbers above 0{self._limits()}"

    def _limits(self) -> str:
        scale = f"{self.scale:g} (task.scale)" if self.scale else f"1, for whole numbers {MILLIMETRES:g}"
        limits = [f"at least {self.least:g} (task.min_depth)"] if self.least is not None else []
        limits += [f"at most {self.most:g} (task.max_depth)"] if self.most is not None else []
        ignored = f" but {self.ignore:g} (task.ignore)" if self.ignore is not None else ""
        return f"{ignored}, {' and '.join(limits)} after multiplication by {scale}" if limits else ignored


def _other_size(row: Row, shape: tuple[int, ...], size: tuple[int, int]) -> str:
    """Return the message for a depth map of this shape whose upright image has another size."""
    wrong = f"depth {image_name(row['depth'])} has {shape[1]} x {shape[0]} pixels, and its image {size[0]} x {size[1]}"
    if picture_size(row["image"]).stored == shape[::-1]:
        return f"{wrong} after its EXIF orientation: turn the depth map too, or save the image upright"
    return f"{wrong}: save the depth map in the image's size, by nearest neighbours"
