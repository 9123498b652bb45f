"""Source of CoNLL files: sentences with one word a line and columns of tags."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text
from regraft.data.table_shape import looks_tagged
from regraft.data.text_encoding import Encoding
from regraft.data.word_columns import DOCUMENT, Cells, Columns, Documents, column_count, columns_in
from regraft.tasks.inputs.tag_schemes import Scheme, WrongTags, to_iob2

_AHEAD = 2000
"""Lines that are read to tell the columns apart."""


class Conll(Source):
    """Words and tags in columns (Tjong Kim Sang and De Meulder, 2003): one word a line, a blank line after a sentence.

    The columns are `tokens` and `tags`, two lists of one length, and `document` where the file says which document a
    sentence is in (-DOCSTART-, `# newdoc`), so that `data.group: document` keeps documents together. Comments,
    multiword tokens and empty nodes of CoNLL-U are passed over and counted.
    """

    suffixes = (".conll", ".iob", ".iob2", ".bio", ".conllu", ".conllup", ".bioes", ".iobes", ".bilou")
    later: ClassVar[frozenset[str]] = frozenset({"encoding"})
    synonyms: ClassVar[frozenset[str]] = frozenset({"conll2003", "conllu", "conll-u", "iob", "bio"})

    separator: Annotated[str, Field(min_length=1)] | None = None
    """Separates columns; null: any number of blanks and tabs, or tabs alone where cells hold blanks."""
    token_column: int = 0
    """Column of the word, counted from 0; negative numbers count from the last. 0 is 1 where the first column numbers
    the words of each sentence."""
    tag_column: int = -1
    """Column of the tag, counted likewise. -1 is the column with tags of entities where words are numbered."""
    scheme: Scheme = "iob2"
    """iob2: entities begin with B-; iob1: they begin with B- only directly after another entity of their type; bioes:
    E- ends an entity and S- is one of one word; bilou: L- and U- likewise; io: words of one type in a row are an
    entity. All are turned into iob2."""
    encoding: Encoding | None = None
    """Encoding of the file, such as cp1252; null: by its mark, else UTF-8."""

    @classmethod
    def proposed(cls, path: Path) -> Self | None:
        """Recognise words with their tags, one a line, in a text file of any name."""
        return cls() if looks_tagged(path) else None

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their first line; a row with a line of more or fewer columns than the first is a bad row."""
        with open_text(path, encoding=self.encoding) as file:
            lines = enumerate(file, 1)
            ahead = list(islice(lines, _AHEAD))
            lines_of_words = [number for number, line in ahead if line.strip() and not line.startswith((DOCUMENT, "#"))]
            where = f"{path}:{lines_of_words[0] if lines_of_words else 1}"
            columns = columns_in(
                (line for _, line in ahead),
                where,
                separator=self.separator,
                token=self.token_column,
                tag=self.tag_column,
            )
            if columns.found:
                read = f"words are read from column {columns.token}, tags from column {columns.tag}"
                yield Raw({}, where, ignored=f"columns of word numbers ({read}, counted from 0)")
            every = chain(ahead, lines)
            yield from self._piped(every, columns, path) if columns.piped else self._read(every, columns, path)

    def _read(self, lines: Iterator[tuple[int, str]], columns: Columns, path: Path) -> Iterator[Raw]:
        """Yield a row for each sentence, and what is passed over between and inside them."""
        documents = Documents()
        sentence: list[tuple[int, Cells]] = []
        for number, line in chain(lines, [(0, "")]):
            where = f"{path}:{number}"
            bare = line.strip(" \t\r\n")
            cells = columns.cells(line)
            document = bool(bare) and self._is_border(bare, cells, columns, first=not sentence)
            if not bare or document:
                if sentence:
                    yield self._row(sentence, columns, path, documents)
                    sentence = []
                if document and documents.begins(bare):
                    yield Raw({}, where, ignored=f"{DOCUMENT} lines" if bare.startswith(DOCUMENT) else "comment lines")
            elif columns.is_comment(bare, cells, first=not sentence):
                yield Raw({}, where, ignored="comment lines")
            elif kind := columns.passed_over(cells):
                yield Raw({}, where, ignored=kind)
            else:
                sentence.append((number, cells))

    @staticmethod
    def _is_border(bare: str, cells: Cells, columns: Columns, *, first: bool) -> bool:
        """Return whether a line begins another document."""
        if bare.startswith(DOCUMENT):
            return True
        return columns.is_comment(bare, cells, first=first) and Documents().begins(bare)

    def _row(self, lines: list[tuple[int, Cells]], columns: Columns, path: Path, documents: Documents) -> Raw:
        """Return the row of a sentence."""
        wrong = next(((number, len(cells)) for number, cells in lines if len(cells) != columns.width), None)
        if wrong:
            problem = (
                f"has {column_count(wrong[1])} where the lines before have {columns.width}: correct the line, or write "
                "data.format.separator if columns may hold blanks or be empty"
            )
            return Raw({}, f"{path}:{wrong[0]}", problem)
        tokens, tags = ([cells[at] for _, cells in lines] for at in (columns.token, columns.tag))
        return self._converted(tokens, tags, f"{path}:{lines[0][0]}", documents.current)

    def _piped(self, lines: Iterator[tuple[int, str]], columns: Columns, path: Path) -> Iterator[Raw]:
        """Yield a row for each line of words such as `Oslo|B-LOC`, as spaCy's .iob files have them."""
        for number, line in lines:
            where = f"{path}:{number}"
            cells = [word.split("|") for word in line.split()]
            if any(len(word) != columns.width for word in cells):
                yield Raw({}, where, f"holds a word without {columns.width} parts separated by |: correct the line")
            elif cells:
                tokens, tags = ([word[at] for word in cells] for at in (columns.token, columns.tag))
                yield self._converted(tokens, tags, where, "")

    def _converted(self, tokens: list[str], tags: list[str], where: str, document: str) -> Raw:
        """Return a row with its tags in IOB2, or a bad row."""
        try:
            values = {"tokens": tokens, "tags": to_iob2(tags, self.scheme)}
        except WrongTags as error:
            return Raw({}, where, f"tags: {error}")
        return Raw({**values, "document": document} if document else values, where)
