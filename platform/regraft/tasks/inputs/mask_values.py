"""Meaning of a mask's pixel values: numbers of classes, black and white, or colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.contracts import Row
from regraft.errors import DataError
from regraft.media.pixels.images import class_numbers, image_name
from regraft.media.pixels.mask_channels import Colours, brightness, colour_name, is_jpeg, nearest
from regraft.media.pixels.picture_sizes import picture_size

IGNORED = -1
"""Class number of pixels that do not count, in batches."""
_WHITE = 128
"""Brightness from which a pixel of a lossy black and white mask is white."""


@dataclass(frozen=True, slots=True)
class MaskValues:
    """What the fields of a task say about pixel values."""

    labels: tuple[str, ...]
    values: Literal["classes", "nonzero"]
    colours: Mapping[str, str] | None
    ignore: int | None
    first: int

    def colour_problem(self) -> str | None:
        """Return why the colours of the labels cannot be used, or None."""
        colours = self.colours or {}
        if self.values != "classes" or self.first:
            return "colours say what pixels mean: leave out values and first"
        if set(colours) != set(self.labels):
            return f"colours names {', '.join(colours)}, and labels are {', '.join(self.labels)}: write one for each"
        numbers = self._by_colour()
        if len(set(numbers.values())) < len(numbers) or self.ignore in numbers.values():
            return "two labels, or a label and ignore, have one colour: write different ones"
        return None

    def remark(self, mask: Any) -> str | None:
        """Return what a lossy file of a mask means for its classes, or None."""
        if not is_jpeg(mask):
            return None
        meaning = "the nearest colour of task.colours" if self.colours else "black or white, whichever is nearer"
        return f"the mask is a JPEG, whose pixel values are not exact: each pixel is taken as {meaning}"

    def numbers(self, mask: Any) -> NDArray[np.int32]:
        """Return a mask as class numbers, or IGNORED. Values of no label become numbers out of range."""
        return self._numbers(self.pixels(mask))

    def pixels(self, mask: Any) -> NDArray[np.int32]:
        """Return the numbers or colours of a mask's pixels. Raises DataError for a mask that has no such meaning.

        A lossy file does not hold numbers exactly: only colours far from each other, and black against white, are kept.
        """
        colours: Colours = "only" if self.colours else "take" if self.values == "nonzero" else "refuse"
        found = class_numbers(mask, colours=colours)
        if not is_jpeg(mask):
            return found
        if self.colours:
            ignored = {} if self.ignore is None else {"": self.ignore}
            return nearest(found, {**self._by_colour(), **ignored})
        bright = brightness(found)
        if self.values == "nonzero" and self.ignore is None and not 0 < bright.max(initial=0) < _WHITE:
            return np.where(bright >= _WHITE, 255, 0).astype(np.int32)
        raise DataError(
            f"mask {image_name(mask)} is a JPEG, whose compression changes class numbers: save the masks as PNG where "
            "they were made; or write task.values: nonzero if they are black and white, or task.colours if each class "
            "has a colour"
        )

    def problem(self, values: NDArray[np.int32], name: str) -> str | None:
        """Return the message about pixel values that are no label's, or None."""
        numbers = self._numbers(values)
        unknown = np.unique(values[(numbers != IGNORED) & ((numbers < 0) | (numbers >= len(self.labels)))])
        return self._unknown_values(unknown.tolist(), name) if unknown.size else None

    def _numbers(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Convert pixel values to class numbers, or to IGNORED. Values of no label become numbers out of range."""
        if self.colours:
            found = np.full(values.shape, IGNORED - 1, np.int32)
            for number, colour in enumerate(self._by_colour().values()):
                found[values == colour] = number
            return found if self.ignore is None else np.where(values == self.ignore, IGNORED, found).astype(np.int32)
        ignored = np.zeros_like(values, dtype=bool) if self.ignore is None else values == self.ignore
        numbers = (values != 0).astype(np.int32) if self.values == "nonzero" else values - self.first
        # The value below the first label would become -1, which is IGNORED.
        return np.where(ignored, IGNORED, np.where(numbers == IGNORED, IGNORED - 1, numbers)).astype(np.int32)

    def _unknown_values(self, unknown: list[int], name: str) -> str:
        """Return the message about pixel values of a mask of no label."""
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        if self.colours:
            some = ", ".join(map(colour_name, unknown[:5])) + more
            known = ", ".join(f"{label} {colour}" for label, colour in self.colours.items())
            return (
                f"mask {name} holds colours of no label: {some}; task.colours has {known}. Add a label, or name a "
                f"colour to leave out in task.ignore, as in 0x{unknown[0]:06x}"
            )
        some = ", ".join(map(str, unknown[:5])) + more
        last = self.first + len(self.labels) - 1
        return (
            f"mask {name} holds pixel values of no label: {some}; {self.first} to {last} are "
            f"{', '.join(self.labels)}. List all classes in task.labels, name a value to leave out in task.ignore, or "
            "set task.values: nonzero if every value but 0 is one class (numbers of instances, 255)"
        )

    def _by_colour(self) -> dict[str, int]:
        """Return the colour of each label as a number 0xRRGGBB, in the order of the labels."""
        colours = self.colours or {}
        return {label: int(colours[label][1:], 16) for label in self.labels if label in colours}


def other_size(row: Row, shape: tuple[int, ...], size: tuple[int, int]) -> str:
    """Return the message for a mask of this shape whose upright image has another size."""
    wrong = f"mask {image_name(row['mask'])} has {shape[1]} x {shape[0]} pixels, and its image {size[0]} x {size[1]}"
    if picture_size(row["image"]).stored != shape[::-1]:
        return wrong
    return f"{wrong} after its EXIF orientation: turn the mask too, or save the image upright"
