"""`tags`: an IOB2 tag for each word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from regraft.columns.labels import LabelsColumn
from regraft.contracts.column import MadeUp

MADE_UP = ("O", "B-thing", "I-thing")


class TagsColumn(LabelsColumn):
    """A list of IOB2 tags, one for each word."""

    counted: ClassVar[bool] = False

    def in_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return O, then the other tags by the alphabet."""
        return tuple(sorted(labels, key=lambda tag: (tag != "O", tag)))

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return None: a tag may hold a comma."""
        return None

    def made_up(self, shared: MadeUp) -> list[str]:
        """Return an entity of two words, and no other."""
        outside, first, inner = MADE_UP
        return [first, inner, *[outside] * len(shared.words)][: len(shared.words)]

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the tags of all rows."""
        return MADE_UP
