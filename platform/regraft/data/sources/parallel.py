"""Source of parallel text: several files whose lines correspond, as in corpora for translation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from regraft.contracts import Raw, Source
from regraft.data.inputs import expand_braces
from regraft.data.json_shape import open_text
from regraft.data.text_encoding import Encoding
from regraft.errors import DataError
from regraft.units import counted


class Parallel(Source):
    """Line-aligned text: `data.train: corpus/train.{en,de}.gz` reads both files side by side, a row for each line.

    The columns are named by the alternatives in the braces, so a task's are mapped as usual: `data.columns: {source:
    en, target: de}`. UTF-8, also compressed with gzip. Files of unequal length are refused, because their lines may
    not correspond.
    """

    later: ClassVar[frozenset[str]] = frozenset({"encoding"})

    encoding: Encoding | None = None
    """Encoding of the files, such as cp1252; null: by their marks, else UTF-8."""

    def accepts(self, path: Path) -> bool:
        """Accept a name with braces that no file has itself."""
        try:
            return not path.exists() and bool(expand_braces(str(path)))
        except ValueError:
            return False

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their line. Raises DataError when one file ends before the others."""
        try:
            names = expand_braces(str(path))
        except ValueError as error:
            raise DataError(str(error), str(path)) from None
        if not names:
            raise DataError(
                "is one file; line-aligned text is several, written with braces: train.{en,de}.txt", str(path)
            )
        with ExitStack() as stack:
            files = [stack.enter_context(open_text(Path(name), encoding=self.encoding)) for name in names.values()]
            for number, lines in enumerate(zip_longest(*files), 1):
                present = [line for line in lines if line is not None]
                if len(present) < len(lines):
                    # Each file was read up to here; the remaining lines of longer files are counted for the message.
                    ends = [
                        number - (line is None) + sum(1 for _ in file) for line, file in zip(lines, files, strict=True)
                    ]
                    raise DataError(_unequal(list(names.values()), ends), f"{path}:{number}")
                cells = (line.rstrip("\r\n") for line in present)
                yield Raw(dict(zip(names, cells, strict=True)), f"{path}:{number}")


def _unequal(names: list[str], counts: list[int]) -> str:
    lengths = ", ".join(f"{name} has {counted(count, 'line')}" for name, count in zip(names, counts, strict=True))
    return f"the files do not correspond line by line: {lengths}"
