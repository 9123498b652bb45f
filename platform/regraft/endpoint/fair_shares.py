"""Fair shares of a fixed number of places, by sender."""

from __future__ import annotations

import math
import time
from collections import Counter

RECENT_S = 5.0
"""How long a sender counts after its last request."""
_MOST_SENDERS = 1024
"""Senders that are remembered. Beyond, the one that asked longest ago is forgotten."""


class FairShares:
    """Places of senders: a single one may take all; with others beside it, only its share.

    A request may take several places, such as one for some bytes: one that is larger than a share is admitted alone.
    """

    def __init__(self, places: int, recent_s: float = RECENT_S) -> None:
        self._places, self._recent_s = places, recent_s
        self._held: Counter[str] = Counter()
        self._asked: dict[str, float] = {}

    @property
    def taken(self) -> int:
        """The number of places that are taken."""
        return self._held.total()

    def admits(self, sender: str, places: int = 1) -> bool:
        """Record that a sender asks, and return whether it may take so many places more."""
        now = time.monotonic()
        self._asked.pop(sender, None)
        self._asked[sender] = now  # the last one: the mapping is in the order of the last request
        while len(self._asked) > _MOST_SENDERS or now - next(iter(self._asked.values())) > self._recent_s:
            del self._asked[next(iter(self._asked))]
        if self.taken + places > self._places and self.taken:
            return False
        active, held = len(self._asked.keys() | self._held.keys()), self._held[sender]
        return active == 1 or not held or held + places <= math.ceil(self._places / active)

    def take(self, sender: str, places: int = 1) -> None:
        """Take places."""
        self._held[sender] += places

    def give(self, sender: str, places: int = 1) -> None:
        """Give places back."""
        self._held[sender] -= places
        if not self._held[sender]:
            del self._held[sender]
