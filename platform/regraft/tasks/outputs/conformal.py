"""p-values against the scores of usual rows: the chance that a usual row is at least as unusual (Vovk et al., 2005)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class UsualScores:
    """Scores of usual rows that the detector was not fitted to."""

    largest: NDArray[np.float32]
    """The kept scores, the largest first, (kept,)."""
    count: int
    """The number of usual rows; of more than are kept, every n-th score is kept."""

    @classmethod
    def of(cls, kept: NDArray[np.float32], count: float) -> UsualScores:
        """Return the scores that a detection holds; the rest of `kept` is filled up."""
        number = max(0, round(float(count)))
        return cls(kept[: min(number, len(kept))], number)

    def p_value(self, score: float) -> float:
        """Return the share of usual rows with at least this score, the row itself counted as one of them."""
        if not len(self.largest):
            return 1.0
        share = float((self.largest >= np.float32(score)).mean())
        return (1 + share * self.count) / (self.count + 1)

    def limit(self, false_alarms: float) -> float | None:
        """Return the score above which p-values are at most `false_alarms`; None where no row can have one so small."""
        above = math.floor(false_alarms * (self.count + 1) + 1e-9) - 1
        if above < 0 or not len(self.largest):
            return None
        return float(self.largest[min(len(self.largest) - 1, above * len(self.largest) // self.count)])

    @property
    def middle(self) -> float:
        """The median, as a scale of scores; 1 where there is none."""
        found = float(self.largest[len(self.largest) // 2]) if len(self.largest) else 0.0
        return found if found > 0 else 1.0
