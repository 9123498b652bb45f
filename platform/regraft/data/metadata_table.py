"""Tables of labels and other columns for files that cannot contain them, such as medical images."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.data.json_shape import open_text
from regraft.data.text_encoding import undecodable
from regraft.errors import DataError


class MetadataTable:
    """A CSV file with further columns of files, such as labels, by file name, patient or study."""

    def __init__(self, path: Path, key: str) -> None:
        """`key` is the column that identifies rows. Raises DataError when the file does not have it."""
        try:
            with open_text(path, newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
        except UnicodeDecodeError:
            place = undecodable([path], None)
            found = f" (byte {place.byte}, line {place.line})" if place else ""
            raise DataError(f"is not UTF-8 text{found}: save it as UTF-8", str(path)) from None
        except (OSError, csv.Error) as error:
            raise DataError(f"cannot be read as CSV: {error}", str(path)) from None
        if not rows or key not in rows[0]:
            has = ", ".join(map(repr, rows[0])) if rows else "no rows"
            raise DataError(f"has no column {key!r}; it has {has}: write data.format.table_key", str(path))
        self._path, self._key = path, key
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._several: set[str] = set()
        """Names with rows that differ: none of them is taken."""
        for row in rows:
            name = _bare_name(row[key] or "")
            if self._rows.setdefault(name, row) != row:
                self._several.add(name)

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Return the only row of that name, with or without a file's suffix, or None."""
        bare = _bare_name(name)
        return None if bare in self._several else self._rows.get(bare)

    def missing_message(self, name: str) -> str:
        """Return the message for a file without a row, or with several that differ."""
        if _bare_name(name) in self._several:
            return f"{self._path} has several rows whose {self._key} is {name!r}, and they differ: leave one"
        return f"{self._path} has no row whose {self._key} is {name!r}: add one, or leave the file out"


def _bare_name(name: str) -> str:
    """Return a file's name without folders and suffixes."""
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    for suffix in (".gz", ".nii", ".dcm", ".dicom"):
        name = name.removesuffix(suffix)
    return name
