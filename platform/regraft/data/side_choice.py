"""The choice of a side of the split for each row that is read."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.data.rare_labels import RareLabels
from regraft.data.split_side import SplitSide


@dataclass(frozen=True)
class SideChoice:
    """The destination of rows: all go to `side`, or shares of them to others."""

    side: SplitSide
    shares: tuple[tuple[SplitSide, float], ...] = ()
    """Other sides, each with its share of the rows."""
    rare: RareLabels | None = None
    """Rows of the other sides that may move, for labels that this side lacks."""
    times: int = 1
    """How often a row is added: as many rows as it counts."""

    def choose(self, unit: float) -> SplitSide:
        """Return the side of a row, or of a group of rows, by the hash of its identity alone.

        The shares follow one another from 0: a second one leaves the first one's rows where they are.
        """
        bound = 0.0
        for other, share in self.shares:
            bound += share
            if unit < bound:
                return other
        return self.side
