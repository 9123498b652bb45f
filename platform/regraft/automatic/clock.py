"""The clock of an automatic run: what of its budget was spent on what, over all attempts."""

from __future__ import annotations

import time

END = 0.45
"""Share of the budget for training the winner again, its controls, and registering it; the search has what is left."""
WINNER = 0.45
"""Share of the end that the winner itself may take; its controls take as many steps."""


class BudgetClock:
    """Counts the seconds of a budget; those of earlier attempts count too."""

    def __init__(self, budget: float, spent_before: float = 0.0) -> None:
        self.budget = budget
        self._before = min(spent_before, budget)
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of all attempts."""
        return self._before + time.monotonic() - self._started

    @property
    def here(self) -> float:
        """Seconds of this attempt."""
        return time.monotonic() - self._started

    @property
    def end(self) -> float:
        """Seconds that are kept for the end."""
        return END * self.budget

    def left(self) -> float:
        """Return the seconds that are left; less than 0 when the budget is overspent."""
        return self.budget - self.spent

    def for_search(self) -> float:
        """Return the seconds that are left before the end begins."""
        return self.left() - self.end
