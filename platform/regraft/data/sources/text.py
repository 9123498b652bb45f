"""Source of plain text: a row for each file, paragraph or line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text


class Text(Source):
    """Plain text, UTF-8, also compressed with gzip; the column is `text`."""

    suffixes = (".txt", ".txt.gz")
    per: Literal["document", "paragraph", "line"] = "document"
    """Unit of a row: the file; a paragraph, with blank lines between them; or a line that is not blank."""

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their first line, with \\n at the ends of lines inside. A blank file is a bad row."""
        with open_text(path) as file:
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
