"""Remarks with a number, of which the largest over all rows is reported."""

from __future__ import annotations

from typing import Self


class Measured(str):
    """A remark about a row with a number, such as the highest level of an image.

    As a text it is a template, with `{}` for the number, so that remarks of one kind are equal and counted together.
    It is reported with the largest number, unless that reaches `limit`: then all is well.
    """

    number: float
    limit: float

    def __new__(cls, template: str, number: float, limit: float) -> Self:
        """Return the remark of one row."""
        made = super().__new__(cls, template)
        made.number, made.limit = number, limit
        return made

    def with_number(self) -> str:
        """Return the text with its number."""
        return self.replace("{}", f"{self.number:g}" if self.number % 1 else f"{self.number:.0f}")
