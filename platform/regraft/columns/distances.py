"""`distances`: a file with the distance of each pixel, a grey picture of 16 bits or an array (NPY)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from regraft.columns.image import ImageColumn, displayed_input, png
from regraft.contracts.column import BadCell, MadeUp
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import MaskView, ShownRow
from regraft.errors import DataError
from regraft.media.pixels.depth_colours import coloured_depth, depth_legend, nearness_of
from regraft.media.pixels.depth_maps import depths_of_png, is_npy, npy_problem

_USUAL = ("depth", "disparity")
_SUFFIXES = (".png", ".npy", ".tif", ".tiff", ".pgm")
Plane = NDArray[Any]


class DistancesColumn(ImageColumn):
    """The distance of each pixel, as a path, an s3:// URL, or the bytes of a picture of one channel or an array."""

    noun: ClassVar[str] = "depth map"
    called: ClassVar[str] = "a depth map"
    target: ClassVar[bool] = True
    drawn: ClassVar[bool] = True
    bare: ClassVar[bool] = False
    plain: ClassVar[str] = ""
    media_type: ClassVar[str] = ""

    def read_header(self, file: str | io.BytesIO, name: str) -> None:
        """BadCell unless the header is that of a picture, or of an array (height, width) of a size that is safe."""
        if not is_npy(file):
            return super().read_header(file, name)
        if isinstance(file, io.BytesIO):
            problem = npy_problem(file, len(file.getbuffer()))
        else:
            with open(file, "rb") as opened:
                problem = npy_problem(opened, os.path.getsize(file))
        if problem:
            raise BadCell(f"{name} {problem}")

    def start_problem(self, head: bytes, size: int) -> str:
        """Return what is wrong with a large file by its first bytes; an array is measured by the whole file's size."""
        if is_npy(head):
            return self._size_problem(size) or npy_problem(io.BytesIO(head), size)
        return super().start_problem(head, size)

    def problem(self, content: bytes) -> str:
        """Return what is wrong with a picture or an array; empty where nothing is."""
        return npy_problem(io.BytesIO(content), len(content)) if is_npy(content) else super().problem(content)

    def for_check(self, value: Any) -> Any:
        """Return a file in S3 with all of its bytes: its numbers are checked."""
        return self.fetched(value)

    def remark(self, value: Any) -> str | None:
        """Return a remark about a picture with several frames; arrays have none."""
        return None if is_npy(value) else super().remark(value)

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise depth maps by the name of their column: their files are pictures or arrays like any others."""
        named = any(word in sample.name.lower() for word in _USUAL)
        if not named or sample.texts is None or not all(text.lower().endswith(_SUFFIXES) for text in sample.texts):
            return None
        try:
            for cell in sample.cells[:3]:
                self.read_cell(cell, sample.folder)
        except BadCell:
            return None
        return Likeness(0.95, f"{sample.distinct:,} depth maps, by the column's name")

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return nothing: the sizes are those of the pictures."""
        return None

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> MaskView | None:
        """Return the true depth beside the predicted one, in the same colours."""
        predicted = _predicted(shown)
        if displayed_input(input_name, shown) is None:
            return None
        truth, inverse = _encoded_depth(shown), shown.answer.get("kind") == "relative"
        if truth is None:
            return None
        valid = truth > 0
        if inverse:  # the model's own numbers have another unit: each picture has its own range
            truth = np.divide(1.0, truth, where=valid, out=np.zeros_like(truth))
        low, high = _range(truth[valid], *([] if inverse or predicted is None else [predicted]))
        pictures = [coloured_depth(nearness_of(truth, low, high, inverse=inverse), valid)]
        if predicted is not None:
            limits = _range(predicted) if inverse else (low, high)
            near = nearness_of(predicted, *limits, inverse=inverse)
            pictures.append(coloured_depth(near, np.ones(predicted.shape, bool)))
        drawn = [shown.thumbnails.add(picture) for picture in pictures]
        legend = depth_legend(low, high, inverse=inverse)
        return MaskView(input_name, drawn[0], drawn[1] if len(drawn) > 1 else None, legend)

    def made_up(self, shared: MadeUp) -> bytes:
        """Return distances from half a metre to four, as a PNG file of 16 bits in millimetres."""
        height, width = shared.size
        slope = np.linspace(500, 2000 + 500 * (shared.number % 3), height)[:, None]
        return png((slope + np.linspace(0, 1000, width)).astype(np.uint16))


def _encoded_depth(shown: ShownRow) -> Plane | None:
    """Return the true depth (height, width) as the task reads it, 0 where there is none; or None."""
    labels = shown.encode().get("labels")
    if not isinstance(labels, Mapping) or "depth" not in labels:
        return None
    depth: Plane = labels["depth"].double().numpy()
    return depth


def _predicted(shown: ShownRow) -> Plane | None:
    """Return the depth of an answer, or None where it has none."""
    try:
        low, high = shown.answer["range"]
        return depths_of_png(shown.answer["depth"], float(low), float(high))
    except (DataError, KeyError, TypeError, ValueError):
        return None


def _range(*planes: Plane) -> tuple[float, float]:
    """Return the least and the largest number of some arrays, of which one is not empty."""
    every = np.concatenate([plane.ravel() for plane in planes])
    return (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)
