"""Resolution of `data.train`: the files that it names and the source that reads each."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regraft.contracts import Raw, Source
from regraft.data.locations import Location, ResolvedPath, location_of
from regraft.data.text_encoding import decoding_error
from regraft.errors import DataError

_HOW = (
    "write data.format: the name of one of them, or {type: name, ...} with its fields, as in "
    "format: {type: csv, delimiter: ';'} (`regraft show sources NAME` lists them)"
)

_SHOWN_SUFFIXES = 8


_WAYS = (
    ((".xlsx", ".xls", ".xlsm", ".ods"), "save the workbook's sheet as CSV in UTF-8"),
    ((".zip", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar"), "unpack it, or pack its files with gzip"),
)
"""Endings of names that no source reads, with what to do."""


@dataclass(frozen=True)
class DataFile:
    """One file or folder of rows on this machine, and its source."""

    resolved: ResolvedPath
    source: Source

    @property
    def path(self) -> Path:
        """Its path on this machine; that of a copy when a URL was given."""
        return self.resolved.path

    @property
    def name(self) -> str:
        """Its name in messages: the path, or the URL that it came from."""
        return self.resolved.name

    @property
    def folder(self) -> str:
        """The folder or s3:// URL that relative paths of images are relative to."""
        resolved = self.resolved
        return resolved.remote_root if resolved.by_reference else resolved.folder or str(self.path.parent)

    def rows(self) -> Iterator[Raw]:
        """Yield its rows. Every failure to read it is raised as a DataError that names it."""
        try:
            rows = self.source.read(self.path)
            yield from map(self._with_originals, rows) if self.resolved.local_root else rows
        except DataError as error:
            raise DataError(self._with_remote_names(error.message), self._with_remote_names(error.where)) from None
        except UnicodeDecodeError:
            found = decoding_error(self._text_files(), self.source, self.name)
            raise DataError(found.message, self._with_remote_names(found.where)) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(self._with_remote_names(f"cannot be read: {error}"), self.name) from None

    def _with_originals(self, raw: Raw) -> Raw:
        """Return a row of a local copy as a row of the original."""
        problem = None if raw.problem is None else self._with_remote_names(raw.problem)
        return replace(raw, values=self._values(raw.values), where=self._with_remote_names(raw.where), problem=problem)

    def _text_files(self) -> list[Path]:
        """Return the files to look into for what cannot be decoded."""
        named = {} if self.path.exists() else expand_braces(str(self.path))
        return [file for file in ([Path(name) for name in named.values()] or [self.path]) if file.is_file()]

    def _with_remote_names(self, text: str) -> str:
        """Return a text with paths of local copies replaced by the names of the originals."""
        resolved = self.resolved
        return text.replace(resolved.local_root, resolved.remote_root) if resolved.local_root else text

    def _values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a row's values with the paths of placeholder files replaced by the URLs of the originals."""
        if not self.resolved.by_reference:
            return values
        start = f"{self.resolved.local_root}/"
        return {
            name: self._with_remote_names(value) if isinstance(value, str) and value.startswith(start) else value
            for name, value in values.items()
        }


def find_data_files(written: str, form: Source | None, scratch: Path) -> Iterator[DataFile]:
    """Yield the files that `written` names, sorted by name.

    `written` is a file, a folder or a glob, on this machine, in S3 (`s3://bucket/key`) or on the hub
    (`hf://datasets/org/name/path`); followed by `#part` if a source has parts; with braces (`train.{en,de}`) for
    several files. Copies are stored in the folder `scratch`. `form` is the source to read them with (`data.format`);
    without it, each file's source is found by its name. Raises DataError.
    """
    members = _all_sources()
    location = location_of(written, scratch, [suffix for member in members for suffix in member.suffixes])
    name, part = _split_part(written, location)
    for resolved in _resolve(name, location, form):
        source = form or find_source(resolved.path, resolved.name, members)
        yield DataFile(resolved, source if part is None else _select_part(source, part, resolved.name))


def find_source(path: Path, name: str, members: Sequence[type[Source]] = ()) -> Source:
    """Return the only source, of `members` or of all, that accepts a path; DataError when none or several do."""
    members = members or _all_sources()
    accepting = [source for member in members if (source := _with_defaults(member)) and source.accepts(path)]
    if len(accepting) == 1:
        return accepting[0]
    if accepting:
        both = " and ".join(source.key() for source in accepting)
        raise DataError(f"{both} both read it: write data.format to choose", where=name)
    hint = f"name the files in it with a glob, such as {name}/*.csv, or " if path.is_dir() else ""
    hint = next((f"{way}, or " for suffixes, way in _WAYS if name.lower().endswith(suffixes)), hint)
    known = "".join(f"\n  - {member.key()}: {_describe(member)}" for member in members)
    raise DataError(f"no source reads it by its name: {hint}{_HOW}. Sources are{known}", where=name)


def _all_sources() -> list[type[Source]]:
    return [Source.lookup(key) for key in Source.names()]


def _describe(member: type[Source]) -> str:
    """Return the first clause of a source's docstring, and the suffixes that it reads."""
    summary = re.split("[.,:;]", " ".join((member.__doc__ or "").split()))[0].partition(" (")[0]
    more = ", ..." if len(member.suffixes) > _SHOWN_SUFFIXES else ""
    return f"{summary} ({', '.join(member.suffixes[:_SHOWN_SUFFIXES])}{more})" if member.suffixes else summary


def _with_defaults(member: type[Source]) -> Source | None:
    """Return a source with its defaults; None for one with required fields, which data.format has to give."""
    try:
        return member()
    except ValidationError:
        return None


def _split_part(written: str, location: Location) -> tuple[str, str | None]:
    """Return a name and the part after its #; the # of an existing file's name belongs to the name."""
    name, sign, part = written.rpartition("#")
    if not sign or not name or not part or "/" in part or location.exists(written):
        return written, None
    return name, part


def _select_part(source: Source, part: str, name: str) -> Source:
    """Return the source set to read that part of a file. Raises DataError when it has no such part."""
    fields = type(source).model_fields
    if "part" not in fields:
        with_parts = [member.key() for member in _all_sources() if "part" in member.model_fields]
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
        problem = error.errors()[0]["msg"]
        raise DataError(f"#{part} is not a part that source {source.key()} reads: {problem}", where=name) from None


def _resolve(written: str, location: Location, form: Source | None) -> Iterator[ResolvedPath]:
    """Yield the files and folders that `written` names.

    Braces name several files. They are yielded as one path, to be read side by side, if `form` accepts such names.
    Without `form`, they are if no source reads one of the files by its suffix.
    """
    try:
        named = {} if "{" not in written or location.exists(written) else expand_braces(written)
    except ValueError as error:
        raise DataError(str(error), where=written) from None
    names = list(named.values())
    if not names:
        yield from location.find(written)
        return
    known = tuple(suffix for member in _all_sources() for suffix in member.suffixes)
    if form.accepts(Path(written)) if form else not names[0].lower().endswith(known):
        yield location.combine(written, names)
        return
    for name in names:
        yield from location.find(name)


_BRACES = re.compile(r"\{([^{},/]+(?:,[^{},/]+)+)\}")


def expand_braces(written: str) -> dict[str, str]:
    """Return the alternatives in braces, each with the complete name that it gives; empty without braces.

    Raises ValueError for several pairs of braces.
    """
    found = list(_BRACES.finditer(written))
    if not found:
        return {}
    if len(found) > 1:
        raise ValueError(f"{len(found)} pairs of braces are written; one is allowed, as in train.{{en,de}}.txt")
    start, end = found[0].span()
    return {name: written[:start] + name + written[end:] for name in found[0][1].split(",")}
