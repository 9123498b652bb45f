"""Which column of a CoNLL file holds what: separator, words, tags, numbers of words, and lines that are no words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from regraft.errors import DataError

Cells = list[str]
DOCUMENT = "-DOCSTART-"
"""The first cell of a line that begins a document (Tjong Kim Sang and De Meulder, 2003)."""
_MOSTLY = 0.95
"""Share of a column's cells that are tags if it holds tags."""
_SAMPLED = 2000
"""Lines by which the columns are told apart."""
_TAG = re.compile(r"O|[BIESLUMW]-.+")
_KEY = re.compile(r"#\s*[\w.:-]+\s*=")
_MARKS = frozenset({"newdoc", "newpar"})
_BORDER = re.compile(r"#\s*(?:begin|end) document")
_BEGIN = re.compile(r"#\s*begin document\s*\(?([^);]*)\)?|#\s*newdoc(?:\s+id)?\s*=?\s*(.*)")
_RANGE = re.compile(r"\d+[-\u2013]\d+")
_EMPTY = re.compile(r"\d+\.\d+")
_PLACEHOLDERS = frozenset({"O", "_", "-X-", "-Z-", "-"})
CONLL_U = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
"""The columns of CoNLL-U (universaldependencies.org)."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one file."""

    separator: str | None
    """None: any number of blanks and tabs."""
    width: int
    """Number of columns."""
    token: int
    tag: int
    numbered: bool
    """Whether the first column counts the words of each sentence."""
    tagged: bool
    """Whether the column of tags holds tags of spans."""
    found: bool = False
    """Whether the columns were found by what they hold, and not by their places."""
    others: frozenset[str] = frozenset()
    """Tags of the sampled lines, without those that begin a sentence with #."""
    piped: bool = False
    """Whether a line is a sentence of words such as `Oslo|B-LOC`."""

    def cells(self, line: str) -> Cells:
        """Return a line's cells, none for a blank line."""
        return cells_of(line, self.separator)

    def is_comment(self, line: str, cells: Cells, *, first: bool) -> bool:
        """Return whether a line is a comment; `first` says that its sentence has no word yet.

        A word may begin with # too: such a line has as many columns as the others, and a tag.
        """
        if not line.startswith("#"):
            return False
        if self.numbered:
            return True
        if len(cells) == self.width and self.tagged and _TAG.fullmatch(cells[self.tag]):
            return False
        if not first:
            return len(cells) > self.width and line.startswith("# ")
        named = _KEY.match(line) or _BORDER.match(line) or (cells[0] == "#" and cells[1:2] and cells[1] in _MARKS)
        if named or (len(cells) != self.width and (cells[0] == "#" or len(cells) > self.width)):
            return True
        return len(cells) == self.width and (self.tagged or (cells[0] == "#" and cells[self.tag] not in self.others))

    def passed_over(self, cells: Cells) -> str:
        """Return what a line of a numbered file is, if it is no word, as a plural; else an empty string."""
        if self.numbered and _RANGE.fullmatch(cells[0]):
            return "multiword tokens, whose words follow them"
        if self.numbered and _EMPTY.fullmatch(cells[0]):
            return "empty nodes, which are no words of the text"
        return ""


@dataclass(slots=True)
class Documents:
    """The document that the lines of a file are in, where the file says it."""

    current: str = ""
    _count: int = field(default=0)

    def begins(self, line: str) -> bool:
        """Return whether a line begins a document, and note its name, or else its number."""
        name = None
        if line.startswith(DOCUMENT):
            named = [cell for cell in line.split()[1:] if cell not in _PLACEHOLDERS]
            name = " ".join(named).strip("()")
        elif found := _BEGIN.match(line):
            name = (found[1] or found[2] or "").strip()
        if name is None:
            return False
        self._count += 1
        self.current = name or str(self._count)
        return True


def cells_of(line: str, separator: str | None) -> Cells:
    """Return a line's cells, none for a blank line. Only blanks and tabs separate: words may have other spaces."""
    bare = line.strip(" \t\r\n")
    if not bare:
        return []
    return line.rstrip("\r\n").split(separator) if separator else re.split(r"[ \t]+", bare)


def columns_in(lines: Iterable[str], where: str, *, separator: str | None, token: int, tag: int) -> Columns:
    """Return the columns of a file by its first lines; `token` and `tag` are those that are written, 0 and -1 if none.

    Raises DataError where the columns do not hold both, or where several may hold the tags.
    """
    sampled = [line.rstrip("\r\n") for line in islice(lines, _SAMPLED)]
    words = [line for line in sampled if line.strip() and not line.startswith((DOCUMENT, "#"))]
    words = words or [line for line in sampled if line.strip() and not line.startswith(DOCUMENT)]
    if not words:
        return Columns(separator, 2, 0, 1, numbered=False, tagged=False)
    if separator is None and all(re.fullmatch(r"(?:[^\s|]+(?:\|[^\s|]+)+\s*)+", line) for line in words):
        width = len(words[0].split()[0].split("|"))
        return Columns("|", width, *_checked(width, where, token, tag), numbered=False, tagged=False, piped=True)
    separator = separator or _separator(words)
    rows = [cells_of(line, separator) for line in words]
    width = len(rows[0])
    usual = (token, tag) == (0, -1)
    numbered = (usual or token % max(width, 1) != 0) and width > 2 and _counts(sampled, separator, width)
    complete = [cells for cells in rows if len(cells) == width and not (numbered and _is_no_word(cells))]
    if usual and numbered:
        token, tag = 1, _tag_column(complete, width, where)
    at = _checked(width, where, token, tag)
    tagged = _holds_tags(complete, at[1])
    others = _tags_of_words(sampled, separator, width, at[1])
    return Columns(separator, width, *at, numbered=numbered, tagged=tagged, found=usual and numbered, others=others)


def _separator(words: Sequence[str]) -> str | None:
    """Return a tab where the columns hold blanks, as they do if only tabs give every line as many; else None."""
    by_blanks = {len(cells_of(line, None)) for line in words}
    by_tabs = {line.count("\t") for line in words}
    return "\t" if len(by_blanks) > 1 and len(by_tabs) == 1 and by_tabs != {0} else None


def _counts(sampled: Sequence[str], separator: str | None, width: int) -> bool:
    """Return whether the first column counts the words of each sentence from 1."""
    expected, most = 1, 0
    for line in sampled:
        cells = cells_of(line, separator)
        if not cells or line.startswith((DOCUMENT, "#")):
            expected = 1
            continue
        if len(cells) != width or _is_no_word(cells):
            continue
        if cells[0] != str(expected):
            return False
        expected, most = expected + 1, max(most, expected)
    return most > 1


def _is_no_word(cells: Cells) -> bool:
    """Return whether a line of a numbered file is a multiword token or an empty node."""
    return bool(_RANGE.fullmatch(cells[0]) or _EMPTY.fullmatch(cells[0]))


def _holds_tags(rows: Sequence[Cells], at: int) -> bool:
    """Return whether a column holds tags of spans; a few may be wrong, and make bad rows."""
    return sum(_TAG.fullmatch(cells[at]) is not None for cells in rows) >= _MOSTLY * len(rows)


def _tags_of_words(sampled: Sequence[str], separator: str | None, width: int, at: int) -> frozenset[str]:
    """Return the tags of all lines but those that begin a sentence with #, which may be comments."""
    tags, first = set(), True
    for line in sampled:
        cells = cells_of(line, separator)
        comment = first and line.startswith("#")
        first = not cells or comment or line.startswith(DOCUMENT)
        if not first and len(cells) == width:
            tags.add(cells[at])
    return frozenset(tags)


def _tag_column(rows: Sequence[Cells], width: int, where: str) -> int:
    """Return the only column after the words whose cells are tags of spans. Raises DataError for none or several."""
    found = [at for at in range(2, width) if _holds_tags(rows, at)]
    if len(found) == 1:
        return found[0]
    example = next((cells for cells in rows if any(cells[at] != "O" for at in found or [1])), rows[0])
    names = CONLL_U if width == len(CONLL_U) else ()
    shown = found or range(2, width)
    listed = "; ".join(
        f"tag_column: {at}{f' ({names[at]})' if names else ''} is {example[at]!r}" for at in shown if example[at] != "_"
    )
    which = "several columns hold tags" if found else "no column holds tags of entities (O, B-<type>, I-<type>)"
    plain = "" if found else " (and task: {type: token-classification, scheme: plain} if they are no entities)"
    raise DataError(
        f"numbers its words in column 0, words are in column 1, and {which}: write data.format: {{type: conll, "
        f"token_column: 1, tag_column: ...}}{plain}. Of the word {example[1]!r}, {listed}",
        where,
    )


def _checked(width: int, where: str, token: int, tag: int) -> tuple[int, int]:
    """Return both columns, counted from 0. Raises DataError when the fields do not name two of them."""
    at = {}
    for name, written in (("token_column", token), ("tag_column", tag)):
        if not -width <= written < width:
            raise DataError(
                f"has {column_count(width)}; data.format.{name} is {written}: write 0 to {width - 1}, or "
                "data.format.separator if that is not what separates columns",
                where,
            )
        at[name] = written % width
    if at["token_column"] == at["tag_column"]:
        raise DataError(
            f"has {column_count(width)}, and data.format takes words and tags from the same one: each line needs a "
            "word and a tag, or write data.format.separator if that is not what separates columns",
            where,
        )
    return at["token_column"], at["tag_column"]


def column_count(count: int) -> str:
    """Return `1 column`, `2 columns`."""
    return f"{count} column" if count == 1 else f"{count} columns"
