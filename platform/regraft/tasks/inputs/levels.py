"""Half of tasks whose rows have an image: the levels of black and white in images of more than 8 bits."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator
from torch import nn

from regraft.contracts import Row, Task
from regraft.errors import Unsupported
from regraft.media.pixels.grey_levels import ordered_levels
from regraft.media.pixels.images import Levels, depth_remark, with_levels


class GreyLevels(Task):
    """Half of a task: how greys of 16 bits are seen, the same in training, evaluation and serving."""

    later: ClassVar[frozenset[str]] = frozenset({"levels"})

    levels: Levels | None = None
    """[black, white]: the levels that become black and white in images with greys of 16 bits or floating-point pixels,
    such as [0, 4095] for 12 bits; null: 0 and 65535, and no floating-point pixels. Images of 8 bits stay as they
    are."""

    @field_validator("levels")
    @classmethod
    def _white_is_above_black(cls, levels: Levels | None) -> Levels | None:
        return ordered_levels(levels)

    def merge(self, model: nn.Module) -> None:
        """Raise Unsupported where levels are set: an exported image processor would read 16 bits otherwise."""
        if self.levels is not None:
            raise Unsupported(
                "an exported folder has no place for task.levels, and transformers reads 16 bits otherwise: serve the "
                "model with regraft, or save the images in 8 bits by these levels and train without task.levels",
                where="task.levels",
            )
        super().merge(model)

    def shown(self, row: Row) -> Row:
        """Return the row with an image of 16 bits as one of 8, by the levels."""
        return row if self.levels is None else {**row, "image": with_levels(row["image"], self.levels)}

    def remark(self, row: Row) -> str | None:
        """Return a remark about an image of 16 bits, for the case that no image has high levels."""
        return depth_remark(row["image"], self.levels)
