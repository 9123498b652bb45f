"""Plain text: a file is one document, or each of its paragraphs or lines is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

from regraft.contracts import Raw, Source
from regraft.data.json_shape import open_text


class Text(Source):
    """Plain text, UTF-8, also packed with gzip; the rows are `text`."""

    suffixes = (".txt", ".txt.gz")
    per: Literal["document", "paragraph", "line"] = "document"
    """What is a row: the whole file; each paragraph, with blank lines between; or each line that is not blank."""

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by the line they begin on; line ends inside of one are kept as \\n. A file of blanks is a bad row."""
        with open_text(path) as file:
            if self.per == "document":
                text = file.read().replace("\r\n", "\n")
                problem = None if text.strip() else "is empty: write some text into it, or leave it out"
                yield Raw({"text": text}, f"{path}:1", problem)
                return
            lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1))
            for told, block in groupby(lines, key=lambda item: bool(item[1].strip())):
                if not told:
                    continue
                if self.per == "line":
                    yield from (Raw({"text": line}, f"{path}:{number}") for number, line in block)
                else:
                    numbered = list(block)
                    yield Raw({"text": "\n".join(line for _, line in numbered)}, f"{path}:{numbered[0][0]}")
