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
    """Places of senders: a single one may take all; with others beside it, only its share."""

    def __init__(self, places: int, recent_s: float = RECENT_S) -> None:
        self._places, self._recent_s = places, recent_s
        self._held: Counter[str] = Counter()
        self._asked: dict[str, float] = {}

    @property
    def taken(self) -> int:
        """The number of places that are taken."""
        return self._held.total()

    def admits(self, sender: str) -> bool:
        """Record that a sender asks, and return whether it may take another place."""
        now = time.monotonic()
        self._asked.pop(sender, None)
        self._asked[sender] = now  # the last one: the mapping is in the order of the last request
        while len(self._asked) > _MOST_SENDERS or now - next(iter(self._asked.values())) > self._recent_s:
            del self._asked[next(iter(self._asked))]
        if self.taken >= self._places:
            return False
        active = len(self._asked.keys() | self._held.keys())
        return active == 1 or self._held[sender] < math.ceil(self._places / active)

    def take(self, sender: str) -> None:
        """Take a place."""
        self._held[sender] += 1

    def give(self, sender: str) -> None:
        """Give a place back."""
        self._held[sender] -= 1
        if not self._held[sender]:
            del self._held[sender]
