"""`defect-mask`: an image file whose pixels that are not 0 are defects."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from regraft.columns.image import displayed_input, png
from regraft.columns.mask import MaskColumn
from regraft.contracts.column import MadeUp
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import MaskView, ShownRow
from regraft.errors import DataError
from regraft.media.pixels.heat import drawn_heat, drawn_outline
from regraft.media.pixels.images import class_numbers

_LEGEND = (("marked as a defect", "#0072b2"), ("found unusual", "#d55e00"))


class DefectMaskColumn(MaskColumn):
    """Where a defect is: 0 for usual pixels, any other value for its pixels. A row may have none."""

    optional: ClassVar[bool] = True
    drawn: ClassVar[bool] = False

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Recognise no column: a look at data does not propose what reads it."""
        return None

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> MaskView | None:
        """Return an image with the defect that its mask marks, beside the same with the answer's heat map."""
        image = displayed_input(input_name, shown)
        if image is None:
            return None
        heat = shown.answer.get("heat_map")
        predicted = drawn_heat(image, heat) if isinstance(heat, str) else None
        add = shown.thumbnails.add
        return MaskView(
            input_name,
            add(drawn_outline(image, self._marked(shown.row[name]))),
            None if predicted is None else add(predicted),
            _LEGEND,
        )

    def _marked(self, mask: str | bytes | None) -> np.ndarray | None:
        if mask is None:
            return None
        try:
            marked: np.ndarray = class_numbers(mask) != 0
        except DataError:
            return None
        return marked

    def made_up(self, shared: MadeUp) -> bytes:
        """Return a mask of the image's size, with a defect in a corner unless the row is good."""
        pixels = np.zeros(shared.size, np.uint8)
        pixels[: shared.size[0] // 3, : shared.size[1] // 3] = 255 if shared.number % 3 else 0
        return png(pixels)
