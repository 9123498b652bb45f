"""Source of CoNLL files: sentences with one word a line and columns of tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text
from regraft.errors import DataError


class Conll(Source):
    """Words and tags in columns (Tjong Kim Sang and De Meulder, 2003): one word a line, a blank line after a sentence.

    The columns are `tokens` and `tags`, two lists of one length. Lines that begin with -DOCSTART- are skipped.
    """

    suffixes = (".conll", ".iob", ".iob2", ".bio")
    separator: Annotated[str, Field(min_length=1)] | None = None
    """Separates columns; null: any number of blanks and tabs."""
    token_column: int = 0
    """Column of the word, counted from 0; negative numbers count from the last."""
    tag_column: int = -1
    """Column of the tag, counted likewise."""
    scheme: Literal["iob2", "iob1"] = "iob2"
    """iob2: entities begin with B-. iob1: they begin with B- only directly after another entity of their type, which is
    turned into iob2."""

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their first line; a row with a line of more or fewer columns than the first is a bad row."""
        width = 0
        with open_text(path) as file:
            for blank, sentence in groupby(self._lines(file), key=lambda line: not line[1]):
                if blank:
                    continue
                lines = list(sentence)
                width = width or self._checked(len(lines[0][1]), f"{path}:{lines[0][0]}")
                wrong = next(((number, len(cells)) for number, cells in lines if len(cells) != width), None)
                if wrong:
                    problem = (
                        f"has {_columns(wrong[1])} where the lines before have {width}: correct the line, or write "
                        "data.format.separator if columns may hold blanks or be empty"
                    )
                    yield Raw({}, f"{path}:{wrong[0]}", problem)
                    continue
                tokens, tags = ([cells[at] for _, cells in lines] for at in (self.token_column, self.tag_column))
                values = {"tokens": tokens, "tags": _iob2(tags) if self.scheme == "iob1" else tags}
                yield Raw(values, f"{path}:{lines[0][0]}")

    def _lines(self, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the cells of each line with its number; no cells at the end of a sentence."""
        for number, line in enumerate(file, 1):
            cells = self._cells(line)
            yield number, [] if cells and cells[0].startswith("-DOCSTART-") else cells

    def _cells(self, line: str) -> list[str]:
        """Return a line's cells, none for a blank line. Only blanks and tabs separate: words may have other spaces."""
        bare = line.strip(" \t\r\n")
        if not bare:
            return []
        return line.rstrip("\r\n").split(self.separator) if self.separator else re.split(r"[ \t]+", bare)

    def _checked(self, width: int, where: str) -> int:
        """Return the number of columns. Raises DataError when the fields do not name two of them."""
        at = {}
        for name in ("token_column", "tag_column"):
            written = getattr(self, name)
            if not -width <= written < width:
                raise DataError(
                    f"has {_columns(width)}; data.format.{name} is {written}: write 0 to {width - 1}, or "
                    "data.format.separator if that is not what separates columns",
                    where,
                )
            at[name] = written % width
        if at["token_column"] == at["tag_column"]:
            raise DataError(
                f"has {_columns(width)}, and data.format takes words and tags from the same one: each line needs a "
                "word and a tag, or write data.format.separator if that is not what separates columns",
                where,
            )
        return width


def _iob2(tags: list[str]) -> list[str]:
    """Convert IOB1 tags to IOB2: an I- that does not continue an entity of its type becomes a B-."""
    return [
        f"B-{tag[2:]}" if tag.startswith("I-") and before[1:] != tag[1:] else tag
        for before, tag in zip(["O", *tags], tags, strict=False)
    ]


def _columns(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"
