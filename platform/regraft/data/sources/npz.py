"""Source of NumPy archives: arrays of one length, images as pixels."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from regraft.contracts import Raw, Source
from regraft.data.arrays import ArrayReader, BadArray, encode_image, has_channels_first, plain_value
from regraft.errors import DataError
from regraft.media.pixels.grey_levels import ordered_levels

_COLUMNS = {
    **dict.fromkeys(("image", "images", "img", "imgs", "x", "data"), "image"),
    **dict.fromkeys(("label", "labels", "y", "target", "targets"), "label"),
    **dict.fromkeys(("mask", "masks"), "mask"),
}
"""Usual names of arrays, and the column that each becomes; others keep their name."""
_SHOWN = 12


class Npz(Source):
    """NumPy archives (`numpy.savez`) of arrays whose first axis is the row; arrays of objects are never read.

    Images are (rows, height, width[, channels]) of 0 to 255, or of 0 to 1 where they are fractions, and become
    `image`; labels `label`. `data.train: x.npz#train` reads the arrays `train_images`, `train_labels` and any other
    `train_...` (or `x_train`, `y_train`) without the part in their names: a patient's number for `data.group`, say.
    """

    later: ClassVar[frozenset[str]] = frozenset({"levels"})
    suffixes = (".npz",)
    part: str | None = None
    """Read the arrays with this word and an underscore before their name, or an underscore and the word after it."""
    images: str | None = None
    """The array of the images; null finds it by its name (images, x, data)."""
    labels: str | None = None
    """The array of the labels; null finds it by its name (labels, y, target)."""
    levels: tuple[float, float] | None = None
    """[black, white]: the values of images that become black and white, such as [0, 4095] for 12 bits; null: 0 and 255,
    or 0 and 1 for fractions."""

    def splits_in(self, path: Path) -> tuple[str, ...]:
        """Return the words before `_images`, `_labels` and the like in the names of arrays."""
        if self.part is not None or not zipfile.is_zipfile(path):
            return ()
        with zipfile.ZipFile(path) as archive:
            pairs = (name.removesuffix(".npy").rpartition("_") for name in archive.namelist())
            return tuple(sorted({part for part, _, column in pairs if part and column in _COLUMNS}))

    @field_validator("levels")
    @classmethod
    def _white_is_above_black(cls, levels: tuple[float, float] | None) -> tuple[float, float] | None:
        return ordered_levels(levels)

    def read(self, path: Path) -> Iterator[Raw]:
        """Yield rows by their number from 1; archives are read sequentially, a row at a time."""
        try:
            with zipfile.ZipFile(path) as archive, ExitStack() as stack:
                arrays = self._arrays(archive, path, stack)
                readers = {name: _column(name, array, self.levels) for name, array in arrays.items()}
                yield from self._unread(archive, arrays, path)
                for number in range(1, next(iter(arrays.values())).rows + 1):
                    yield _row(readers, f"{path}:{number}")
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"is not readable as a NumPy archive: {error}", str(path)) from None
        except BadArray as error:
            raise DataError(str(error), str(path)) from None

    def _arrays(self, archive: zipfile.ZipFile, path: Path, stack: ExitStack) -> dict[str, ArrayReader]:
        """Return the arrays that are columns, open at their first row."""
        names = _array_names(archive)
        chosen = self._chosen(names, path)
        found = {column: stack.enter_context(ArrayReader(archive, name)) for column, name in chosen.items()}
        arrays = {column: array for column, array in found.items() if array.shape}
        lengths = {array.rows for array in arrays.values()}
        if len(lengths) != 1:
            shapes = ", ".join(f"{array.name} {array.shape}" for array in arrays.values())
            problem = f"its arrays do not have one length: {shapes or 'there are none'}"
            raise DataError(f"{problem}. {_naming_hint(names)}", str(path))
        return arrays

    def _unread(self, archive: zipfile.ZipFile, arrays: dict[str, ArrayReader], path: Path) -> Iterator[Raw]:
        """Yield what of the archive is no column; arrays of other parts are not meant at all."""
        read = {array.name for array in arrays.values()}
        chosen = set(self._chosen(_array_names(archive), path).values())
        for file in archive.namelist():
            name = file.removesuffix(".npy")
            if name not in read and (self.part is None or _without_part(name, self.part)):
                unread = "arrays that are not read" if file.endswith(".npy") else "files that are no arrays"
                yield Raw({}, f"{path}:{file}", ignored="arrays without rows" if name in chosen else unread)

    def _chosen(self, names: list[str], path: Path) -> dict[str, str]:
        """Return the arrays' names by the columns that they become."""
        bare = {name: _without_part(name, self.part) if self.part else name for name in names}
        chosen: dict[str, str] = {}
        settings = {"image": self.images, "label": self.labels}
        for column, written in settings.items():
            if written is not None:
                match = [name for name in names if written in (name, bare[name])]
                if not match:
                    raise DataError(f"has no array {written!r}. {_naming_hint(names)}", str(path))
                chosen[column] = match[0]
        for name, short in bare.items():
            column = _COLUMNS.get(short.lower(), short) if short else ""
            if not column or name in chosen.values() or settings.get(column) is not None:
                continue
            if column in chosen:
                raise DataError(_ambiguous(column, chosen[column], name), str(path))
            chosen[column] = name
        if not chosen or (self.part is None and not {"image", "label", "text"} & set(chosen)):
            wanted = f"of a part {self.part!r}" if self.part else "that is called images or labels"
            raise DataError(f"has no array {wanted}. {_naming_hint(names)}", str(path))
        return chosen


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of an archive's arrays."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _row(readers: dict[str, Iterator[Any]], where: str) -> Raw:
    values: dict[str, Any] = {}
    problem = None
    for name, reader in readers.items():
        value = next(reader)
        if isinstance(value, BadArray):
            problem = problem or f"{name}: {value}"
        else:
            values[name] = value
    return Raw(values, where, problem)


def _column(name: str, array: ArrayReader, levels: tuple[float, float] | None) -> Iterator[Any]:
    """Return the column's cells, row by row; BadArray in place of a cell that cannot be used."""
    if name not in ("image", "mask"):
        return (plain_value(row) for row in array)
    layout = has_channels_first(array)
    image = name == "image"
    return (encode_image(row, layout, fractions=image, levels=levels if image else None) for row in array)


def _without_part(name: str, part: str) -> str | None:
    """Return an array's name without the part before or after it; None for a name without the part."""
    found = re.fullmatch(rf"{re.escape(part)}[_/.-](.+)|(.+)[_/.-]{re.escape(part)}", name)
    return found and (found[1] or found[2])


def _ambiguous(column: str, first: str, second: str) -> str:
    """Return the message about two arrays that would be one column, with the setting that chooses."""
    setting = {"image": "images", "label": "labels"}.get(column)
    way = "leave one of them out, or give it another name"
    if setting:
        way = f"write the one to read, as in data.format: {{type: npz, {setting}: {second}}}"
    return f"holds {first!r} and {second!r}, and either may be the {setting or column}: {way}"


def _naming_hint(names: list[str]) -> str:
    """Return a sentence that lists the arrays, and how data.format or a part can select them."""
    words = sorted({word for name in names for word in re.split(r"[_/.-]", name)})
    parts = [word for word in words if any((_without_part(name, word) or "").lower() in _COLUMNS for name in names)]
    hint = "write which they are, as in data.format: {type: npz, images: pixels, labels: classes}"
    if parts:
        one = "train" if "train" in parts else parts[0]
        hint = f"name a part of it, as in #{one} after the file's name ({', '.join(parts)})"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"It holds {', '.join(names[:_SHOWN]) or 'nothing'}{more}: {hint}"
