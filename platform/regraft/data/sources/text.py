"""Source of plain text: a row for each file, paragraph or line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text
from regraft.data.text_encoding import Encoding

_TAGGED = re.compile(r"\S+([ \t]+\S+)*[ \t]+(O|[BIESLUM]-\S+)")
"""A word, perhaps more columns, and a tag."""
_TAB = "\t"


class Text(Source):
    """Plain text, UTF-8 or UTF-16, also compressed with gzip; the column is `text`."""

    suffixes = (".txt", ".txt.gz")
    later: ClassVar[frozenset[str]] = frozenset({"encoding"})
    synonyms: ClassVar[frozenset[str]] = frozenset({"txt", "plain", "plain-text", "lines"})

    per: Literal["document", "paragraph", "line"] = "document"
    """Unit of a row: the file; a paragraph, with blank lines between them; or a line that is not blank."""
    encoding: Encoding | None = None
    """Encoding of the file, such as cp1252; null: by its mark, else UTF-8."""

    def advice(self, raw: Raw, wanted: Sequence[str]) -> str:
        """Return the source of a table, or of words with their tags, where the text looks like one."""
        first, _, rest = str(raw.values.get("text", "")).partition("\n")
        if _TAB in first and (not wanted or set(wanted) & set(first.split(_TAB))):
            return 'it looks like a table: write data.format: {type: csv, delimiter: "\\t"}'
        second = rest.partition("\n")[0]
        if first.startswith("-DOCSTART-") or (_TAGGED.fullmatch(first) and (not second or _TAGGED.fullmatch(second))):
            return "its first line looks like a word with its tag: write data.format: conll"
        return ""

    def smaller_rows(self) -> str:
        """Return the unit that makes rows of the parts of a document."""
        if self.per == "document":
            return f"write data.format: {self.written(per='paragraph')}, or per: line, so that a file has many rows"
        return (
            f"write data.format: {self.written(per='line')}, so that a file has more rows" if self.per != "line" else ""
        )

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their first line, with \\n at the ends of lines inside. A blank file is a bad row."""
        with open_text(path, encoding=self.encoding) as file:
            if self.per == "document":
                text = file.read().replace("\r\n", "\n")
                problem = None if text.strip() else "is empty: write some text into it, or leave it out"
                yield Raw({"text": text}, f"{path}:1", problem)
                return
            lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1))
            for has_text, block in groupby(lines, key=lambda item: bool(item[1].strip())):
                if not has_text:
                    continue
                if self.per == "line":
                    yield from (Raw({"text": line}, f"{path}:{number}") for number, line in block)
                else:
                    numbered = list(block)
                    yield Raw({"text": "\n".join(line for _, line in numbered)}, f"{path}:{numbered[0][0]}")
