"""Texts in several files whose lines belong together, as corpora for translation keep them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

from regraft.contracts import Raw, Source
from regraft.data.inputs import alternatives
from regraft.data.json_shape import open_text
from regraft.errors import DataError


class Parallel(Source):
    """Line-aligned text: `data.train: corpus/train.{en,de}.gz` reads both files side by side, a line of each a row.

    The columns are named by what stands between the braces, so a task's are mapped as ever: `data.columns: {source:
    en, target: de}`. UTF-8, also packed with gzip. Files of unequal length are refused, because no line of them could
    be trusted to belong to its counterpart.
    """

    def accepts(self, path: Path) -> bool:
        """A name with braces that no file bears itself."""
        try:
            return not path.exists() and bool(alternatives(str(path)))
        except ValueError:
            return False

    def read(self, path: Path) -> Iterator[Raw]:
        """Rows by their line; DataError names the files when one ends before the others."""
        try:
            names = alternatives(str(path))
        except ValueError as error:
            raise DataError(str(error), str(path)) from None
        if not names:
            raise DataError(
                "is one file; line-aligned text is several, written with braces: train.{en,de}.txt", str(path)
            )
        with ExitStack() as stack:
            files = [stack.enter_context(open_text(Path(name))) for name in names.values()]
            for number, lines in enumerate(zip_longest(*files), 1):
                told = [line for line in lines if line is not None]
                if len(told) < len(lines):
                    # The files were each read up to here; what is left of the longer ones is counted for the message.
                    ends = [
                        number - (line is None) + sum(1 for _ in file) for line, file in zip(lines, files, strict=True)
                    ]
                    raise DataError(_unequal(list(names.values()), ends), f"{path}:{number}")
                cells = (line.rstrip("\r\n") for line in told)
                yield Raw(dict(zip(names, cells, strict=True)), f"{path}:{number}")


def _unequal(names: list[str], counts: list[int]) -> str:
    told = ", ".join(f"{name} has {count} lines" for name, count in zip(names, counts, strict=True))
    return f"the files do not belong together line by line: {told}"
