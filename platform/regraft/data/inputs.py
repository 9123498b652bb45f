"""Which files does `data.train` mean, and which source reads each?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regraft.contracts import Raw, Source
from regraft.data.locations import Found, Place, place_of
from regraft.errors import DataError

_HOW = (
    "write data.format: the name of one of them, or {type: name, ...} with its fields, as in "
    "format: {type: csv, delimiter: ';'} (`regraft show sources NAME` tells them)"
)


@dataclass(frozen=True)
class DataFile:
    """One file or folder of rows, here on this machine."""

    found: Found
    source: Source

    @property
    def path(self) -> Path:
        """Where it lies on this machine; a copy, where it was named by a URL."""
        return self.found.path

    @property
    def name(self) -> str:
        """What messages call it: the path, or the URL that it came from."""
        return self.found.name

    @property
    def folder(self) -> str:
        """Where relative image paths begin: a folder of this machine or an s3:// URL."""
        return self.found.there if self.found.by_reference else str(self.path.parent)

    def rows(self) -> Iterator[Raw]:
        """Its rows; every failure to read it is a DataError that names it."""
        try:
            for raw in self.source.read(self.path):
                problem = None if raw.problem is None else self._told(raw.problem)
                yield replace(raw, values=self._values(raw.values), where=self._told(raw.where), problem=problem)
        except DataError as error:
            raise DataError(self._told(error.message), self._told(error.where)) from None
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8 text (byte {error.start}): save it as UTF-8", self.name) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(self._told(f"cannot be read: {error}"), self.name) from None

    def _told(self, text: str) -> str:
        """The same in the names of the place that the data came from."""
        return text.replace(self.found.here, self.found.there) if self.found.here else text

    def _values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Paths of stand-ins as the URLs of what they stand for."""
        if not self.found.by_reference:
            return values
        start = f"{self.found.here}/"
        return {
            name: self._told(value) if isinstance(value, str) and value.startswith(start) else value
            for name, value in values.items()
        }


def data_files(written: str, form: Source | None, scratch: Path) -> Iterator[DataFile]:
    """The files that `written` names, in the order of their names.

    `written` is a file, a folder or a glob, on this machine, in S3 (`s3://bucket/key`) or on the hub
    (`hf://datasets/org/name/path`); with `#part` after it where a source has parts; with braces (`train.{en,de}`) for
    several files. Copies are put into the folder `scratch`. `form` is the source to read them with (`data.format`);
    without it each file's own is found.
    """
    members = _members()
    place = place_of(written, scratch, [suffix for member in members for suffix in member.suffixes])
    name, part = _parted(written, place)
    for found in _found(name, place, form):
        source = form or source_of(found.path, found.name, members)
        yield DataFile(found, source if part is None else _of_part(source, part, found.name))


def source_of(path: Path, name: str, members: Sequence[type[Source]] = ()) -> Source:
    """The one of the sources (all there are) that accepts a path; DataError names those when it is none or several."""
    members = members or _members()
    takers = [source for member in members if (source := _plain(member)) and source.accepts(path)]
    if len(takers) == 1:
        return takers[0]
    if takers:
        both = " and ".join(source.key() for source in takers)
        raise DataError(f"{both} both read it: write data.format to choose", where=name)
    hint = f"name the files in it with a glob, such as {name}/*.csv, or " if path.is_dir() else ""
    known = "".join(f"\n  - {member.key()}: {_told_of(member)}" for member in members)
    raise DataError(f"no source reads it by its name: {hint}{_HOW}. Sources are{known}", where=name)


def _members() -> list[type[Source]]:
    return [Source.lookup(key) for key in Source.names()]


def _told_of(member: type[Source]) -> str:
    """What a source says of itself, up to the first stop, and the suffixes that it reads."""
    told = re.split("[.,:;]", " ".join((member.__doc__ or "").split()))[0].partition(" (")[0]
    return f"{told} ({', '.join(member.suffixes)})" if member.suffixes else told


def _plain(member: type[Source]) -> Source | None:
    """The member with its defaults; None for one that has fields to be written, which only data.format can name."""
    try:
        return member()
    except ValidationError:
        return None


def _parted(written: str, place: Place) -> tuple[str, str | None]:
    """A name and the part behind its #; a file whose name holds the # itself is that file."""
    name, sign, part = written.rpartition("#")
    if not sign or not name or not part or "/" in part or place.has(written):
        return written, None
    return name, part


def _of_part(source: Source, part: str, name: str) -> Source:
    """The same source, reading that part of a file."""
    fields = type(source).model_fields
    if "part" not in fields:
        with_parts = [member.key() for member in _members() if "part" in member.model_fields]
        raise DataError(
            f"#{part} names a part of it, and files of source {source.key()} have none (those of "
            f"{', '.join(with_parts)} do): leave #{part} out",
            where=name,
        )
    before = getattr(source, "part", None)
    if before not in (None, part):
        raise DataError(f"#{part} is written and data.format.part is {before!r}: leave one of them out", where=name)
    try:
        return type(source).model_validate({**{key: getattr(source, key) for key in fields}, "part": part})
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise DataError(f"#{part} is no part that source {source.key()} reads: {told}", where=name) from None


def _found(written: str, place: Place, form: Source | None) -> Iterator[Found]:
    """What is named; braces are several files, read side by side by a source that takes such names.

    Without `form` they are so when no source reads one of them by its suffix.
    """
    try:
        named = {} if "{" not in written or place.has(written) else alternatives(written)
    except ValueError as error:
        raise DataError(str(error), where=written) from None
    names = list(named.values())
    if not names:
        yield from place.find(written)
        return
    known = tuple(suffix for member in _members() for suffix in member.suffixes)
    if form.accepts(Path(written)) if form else not names[0].lower().endswith(known):
        yield place.together(written, names)
        return
    for name in names:
        yield from place.find(name)


_BRACES = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")


def alternatives(written: str) -> dict[str, str]:
    """What stands between the braces, each with the whole name that it makes; empty where there are no braces.

    ValueError where several pairs of braces stand in one name.
    """
    found = list(_BRACES.finditer(written))
    if not found:
        return {}
    if len(found) > 1:
        raise ValueError(f"{len(found)} pairs of braces are written; one is allowed, as in train.{{en,de}}.txt")
    start, end = found[0].span()
    return {name: written[:start] + name + written[end:] for name in found[0][1].split(",")}
