"""From a file's columns to the task's: found by name, of the right kind, or refused with the reason."""

from __future__ import annotations

import io
import json
import math
import os
import posixpath
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from regraft.contracts import Kind, Raw
from regraft.data.images import S3, beginning
from regraft.errors import DataError, NotFound, RequestError

_SHOWN = 20
_NOWHERE = object()


class Wrong(ValueError):
    """A row that does not fit; its text is collected with those of other rows."""


class Columns:
    """How the rows of one file become rows of a task."""

    def __init__(self, wanted: Mapping[str, Kind], names: Mapping[str, str], folder: str | Path) -> None:
        """`names` are the file's column names by the task's, a dot between a column and what lies inside of it.

        `folder` is where relative image paths begin: on this machine, or an s3:// URL.
        """
        self._columns = [(column, names.get(column, column), _KINDS[kind]) for column, kind in wanted.items()]
        self._paired = {"boxes", "labels"} <= set(wanted)
        self._folder = str(folder)

    def check(self, raw: Raw, file: str, manual: str, group: str | None = None) -> None:
        """DataError unless the first row of a file has every column; `manual` is what to look at for more.

        `group` is one more column that the file must have, by its own name.
        """
        wanted = [name for _, name, _ in self._columns] + ([] if group is None else [group])
        missing = [name for name in wanted if found(raw.values, name) is _NOWHERE]
        if not missing:
            return
        has = [str(name)[:40] for name in raw.values]
        near = {name: get_close_matches(name, has, n=1) for name in missing}
        hints = [f"{name!r} (nearest: {near[name][0]!r})" if near[name] else repr(name) for name in missing]
        more = f" and {len(has) - _SHOWN} more" if len(has) > _SHOWN else ""
        needed = ", ".join(map(repr, wanted))
        raise DataError(
            f"has no column {', '.join(hints)}; it has {', '.join(map(repr, has[:_SHOWN]))}{more}; "
            f"needed are {needed}: say in data.columns what they are called here, "
            f"or in data.format how to read the file ({manual})",
            where=file,
        )

    def remote(self, raw: Raw) -> list[str]:
        """The URLs of the row's images in S3, which are worth fetching ahead of `row`."""
        pictures = [found(raw.values, name) for _, name, kind in self._columns if kind is _image]
        return [url for value in pictures if isinstance(value, str) and (url := _url(value, self._folder)) is not None]

    def row(self, raw: Raw) -> dict[str, Any]:
        """The task's columns of one row; Wrong says what is wrong with it."""
        row = {}
        for column, name, kind in self._columns:
            value = found(raw.values, name)
            if value is _NOWHERE:
                raise Wrong(f"has no {name!r}")
            try:
                row[column] = kind(value, self._folder)
            except Wrong as error:
                raise Wrong(f"{name}: {error}") from None
        if self._paired and len(row["boxes"]) != len(row["labels"]):
            raise Wrong(f"has {len(row['boxes'])} boxes and {len(row['labels'])} labels: one label for each box")
        return row


def group_of(raw: Raw, name: str) -> str:
    """What the rows of one group share, from the column that `data.group` names; Wrong where a row has none."""
    value = found(raw.values, name)
    if value is _NOWHERE or _absent(value) or value == "":
        raise Wrong(f"{name}: is missing; data.group keeps rows together by it")
    if not isinstance(value, str | int | float):
        raise Wrong(f"{name}: is {_shown(value)}; a group is a name or a number")
    return _label(value, "") if not isinstance(value, float) or value.is_integer() else str(value)


def found(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of what lies inside of one (`translation.en`, `objects.bbox`); else `_NOWHERE`.

    Inside of a list of structures a name stands for the list of their values.
    """
    if name in values:
        return values[name]
    column, dot, inner = name.partition(".")
    if not dot or column not in values:
        return _NOWHERE
    value = values[column]
    if isinstance(value, Mapping):
        return found(value, inner)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        several = [found(item, inner) for item in value]
        return _NOWHERE if any(item is _NOWHERE for item in several) else several
    return _NOWHERE


def _text(value: object, _: str) -> str:
    if isinstance(value, str):
        return value
    raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; text is wanted")


def _label(value: object, _: str) -> str:
    """Whole numbers become text; space around a label is dropped: it would make a class of its own, unseen."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column with gaps, as pandas writes it
        value = int(value)
    if isinstance(value, str | int):
        if label := str(value).strip():
            return label
        raise Wrong("is empty; every row needs a label")
    raise Wrong("is missing; every row needs a label" if _absent(value) else f"is {_shown(value)}; a label is text")


def _number(value: object, _: str) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; a finite number is wanted")


def _image(value: object, folder: str) -> str | bytes:
    """The absolute path of a readable image, or the bytes of its file; only its header is read."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):  # as the `datasets` library writes images
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, bytes):
        _readable(io.BytesIO(value), "the image in this row")
        return value
    if not isinstance(value, str) or not value:
        raise Wrong("is missing" if _absent(value) or value == "" else f"is {_shown(value)}; a path is wanted")
    if url := _url(value, folder):
        _readable(_first_bytes(url), url)
        return url
    if "://" in value:
        raise Wrong(f"{value!r} is a URL; images are read from local files and s3:// URLs: download them first")
    path = os.path.abspath(os.path.join(folder, value))
    _readable(path, path)
    return path


def _url(value: str, folder: str) -> str | None:
    """Where in S3 an image is that a row names by its URL, or by a path beside a file in S3."""
    if value.startswith(S3):
        return value
    if not folder.startswith(S3) or "://" in value or os.path.isabs(value):
        return None
    return f"{S3}{posixpath.normpath(posixpath.join(folder.removeprefix(S3), value))}"


def _first_bytes(url: str) -> io.BytesIO:
    """Where in S3 an image is; a store that cannot be reached is no matter of the row."""
    try:
        return io.BytesIO(beginning(url)[0])
    except NotFound:
        raise Wrong(f"there is no image {url}") from None
    except RequestError as error:
        raise Wrong(f"{url!r} names no image in S3: {error.message}") from None


def _readable(file: str | io.BytesIO, name: str) -> None:
    """Wrong unless the header is that of an image of a size that is safe to decode."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                width, height = image.size
    except FileNotFoundError:
        raise Wrong(f"there is no image {name}") from None
    except UnidentifiedImageError:
        raise Wrong(f"{name} is no image that can be read: repair it or leave the row out") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Wrong(f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on headers cut short
        raise Wrong(f"{name} cannot be read: {error}") from None
    if not width or not height:
        raise Wrong(f"{name} has no pixels")


def _boxes(value: object, folder: str) -> list[list[float]]:
    if not isinstance(value, list | tuple):
        raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; a list of boxes is wanted")
    for box in value:
        if not isinstance(box, list | tuple) or len(box) != 4 or any(isinstance(side, str) for side in box):
            raise Wrong(f"holds {_shown(box)}; a box is four numbers: x, y, width, height in pixels")
    return [[_number(side, folder) for side in box] for box in value]


def _labels(value: object, folder: str) -> list[str]:
    """A list of labels; a CSV cell holds it as JSON (`["a", "b"]`) or with bars between (`a|b`), none when empty."""
    if isinstance(value, str):
        value = _from_cell(value)
    if not isinstance(value, list | tuple):
        raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; a list of labels is wanted")
    return [_label(label, folder) for label in value]


def _from_cell(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [part for part in text.split("|") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise Wrong(f"is {_shown(text)}, which is no JSON list") from None


def _words(value: object, _: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; a list of words is wanted")
    for word in value:
        if not isinstance(word, str):
            raise Wrong(f"holds {_shown(word)}; a word is text")
    return list(value)


def _texts(value: object, folder: str) -> list[str]:
    """Several texts; one text stands for a list of one."""
    if isinstance(value, list | tuple) and value:
        return [_text(text, folder) for text in value]
    return [_text(value, folder)]


def _messages(value: object, _: str) -> list[dict[str, str]]:
    """A conversation as the Chat Completions form has it; a CSV cell holds it as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Wrong("is text that is no JSON; a list of {role, content} is wanted") from None
    if not isinstance(value, list | tuple) or not value:
        raise Wrong("is missing" if _absent(value) else f"is {_shown(value)}; a list of {{role, content}} is wanted")
    for message in value:
        told = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not told:
            raise Wrong(f"holds {_shown(message)}; a message is {{role: ..., content: ...}}, both text")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _made(value: object, _: str) -> list[int]:
    raise Wrong("holds tokens, which no file brings")


_KINDS: dict[Kind, Callable[[object, str], Any]] = {
    "text": _text,
    "texts": _texts,
    "image": _image,
    "mask": _image,
    "label": _label,
    "number": _number,
    "boxes": _boxes,
    "labels": _labels,
    "words": _words,
    "tags": _labels,
    "messages": _messages,
    "tokens": _made,
}


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}... ({type(value).__name__})" if len(text) > 60 else f"{text} ({type(value).__name__})"
