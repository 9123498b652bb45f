"""Code of methods that fit a detector to patches of usual images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from regraft.contracts import Anatomy, Method, Serving
from regraft.errors import DataError, Unsupported
from regraft.methods.detectors.detector import Detector


class PatchMethod(Method):
    """The base is frozen; a detector is fitted to what it makes of good rows."""

    closed_form: ClassVar[bool] = True
    fits: ClassVar[str] = "patches"
    reads_twice: ClassVar[bool] = True
    learns_more: ClassVar[bool] = True
    serves: ClassVar[Serving] = "head"

    bank_mb: float = Field(0.5, gt=0, le=4096)
    """Most megabytes of what is kept of good rows; every version stores it, and it is in memory while it is served."""

    top_share: float = Field(0.01, ge=0, le=1)
    """Share of an image's patches, the farthest ones, whose mean distance is its score; 0 for the farthest alone."""

    @abstractmethod
    def detector(self, width: int) -> Detector:
        """Return the layer to fit to patches of this width."""

    def depth_of(self, anatomy: Anatomy) -> int:
        """Return the number of all blocks."""
        return len(anatomy.blocks)

    def frozen(self, model: nn.Module, anatomy: Anatomy) -> tuple[str, ...]:
        """Return the name of the base."""
        return (anatomy.prefix,) if anatomy.prefix else ()

    def adapt(self, model: nn.Module, anatomy: Anatomy) -> None:
        """Freeze the base, and give the model its detector. Raises Unsupported for a model without patches."""
        found: Any = model
        width = getattr(model, "patch_width", None)
        if not isinstance(width, int):
            raise Unsupported(
                f"{self.key()} is written, and a {type(model).__name__} gives no patches to describe; write another "
                "method",
                where="method",
            )
        found.detector = self.detector(width)
        super().adapt(model, anatomy)

    def floats(self) -> int:
        """Return how many numbers the bound allows."""
        return int(self.bank_mb * 1e6 / 4)


def good_only(patches: Tensor, targets: Tensor) -> Tensor:
    """Return the patches of rows that are learned from, (rows, width, height, width) as floats."""
    return patches[targets >= 0].float()


def refuse_none_good(good: int, rows: int) -> None:
    """Raise DataError where no training row is good."""
    if good:
        return
    raise DataError(
        f"none of the {rows:,} training rows is good, and there is nothing to learn from: write in task.good what the "
        "folder or the label of good rows is called",
        where="data.train",
    )


def learned_from(good: int, rows: int, kept: str) -> str:
    """Return a note about what was fitted."""
    left = f" ({rows - good:,} rows of defects are left out)" if rows > good else ""
    return f"learned from {good:,} good rows{left}: {kept}"
