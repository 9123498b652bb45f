"""Parsing of request bodies, within limits, into rows of the model's task.

A body is JSON, a form, or the only column's value itself, such as a picture's file.

Anyone who reaches the endpoint reaches this code. So sizes are limited before values are decoded, and an image's header
is read before its pixels. A text is never opened as a file or an address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from regraft.contracts import ApiForm, BadCell, Column, Task, TooLarge, columns_of
from regraft.contracts.column import json_name
from regraft.contracts.file_ref import UndecodedFile
from regraft.endpoint.form_fields import MULTIPART, URLENCODED, FormField, multipart_fields, urlencoded_fields
from regraft.endpoint.form_inputs import INPUTS, FormInputs
from regraft.endpoint.http_errors import HttpError, wrong
from regraft.endpoint.inference_api import parameters_of
from regraft.endpoint.json_body import BYTE_ORDER_MARK, parse_json, refuse_deep
from regraft.plugins import unknown
from regraft.serving.row_checks import prediction_columns
from regraft.serving.training_names import names_of_cells, shown_columns, with_task_names
from regraft.spec.column_names import Names
from regraft.spec.serve import LimitSpec
from regraft.units import with_article

LONGEST_TOKEN = 16
"""Most characters of a token: a lower bound of a text's tokens follows without a tokenizer."""
ESCAPED = 6
"""Most bytes of a character in JSON (\\uXXXX)."""

KEYS = ("inputs", "parameters", "options", "stream")
_FIELD = re.compile(rb"([\w.%\[\]-]{1,80})=")
"""The beginning of a urlencoded form; curl sends any body under that media type unless it is given another."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed request: rows for the task, and the form of the reply."""

    rows: list[dict[str, Any]]
    single: bool
    form: ApiForm
    parameters: Mapping[str, Any]
    decoded: int
    """Pixels or samples that its values decode to."""
    undecoded: Sequence[UndecodedValue] = ()
    """Values that another process decodes first."""
    counts: Sequence[int | None] = ()
    """The rows of each input, None for one that is a row by itself; empty where all are."""

    @property
    def pixels(self) -> int:
        """Most pixels or samples that its values decode to, those included whose files do not state them."""
        return max(self.decoded, *(one.file.pixels for one in self.undecoded), 0)

    def decode(self) -> None:
        """Put decoded values in place of the undecoded ones. Raises HttpError 422, 413 or 503."""
        for one in self.undecoded:
            one.row[one.name] = one.allowance.count(one.file.converted, one.where)


@dataclass(frozen=True, slots=True)
class UndecodedValue:
    """The place of a file in a request that another process decodes first."""

    row: dict[str, Any]
    name: str
    """The column."""
    file: UndecodedFile
    allowance: DecodingAllowance
    where: str
    """Name of the value in messages."""


def most_bytes(task: Task, limits: LimitSpec) -> int:
    """Return the bytes that a body may have: for texts, as many as the allowed tokens can take."""
    if any(column.by_reference for column in columns_of(prediction_columns(task)).values()):
        return limits.body_bytes
    return min(limits.body_bytes, limits.tokens * LONGEST_TOKEN * ESCAPED + (1 << 16))


def parse_request(
    body: bytes, content_type: str, task: Task, limits: LimitSpec, *, names: Mapping[str, Names] | None = None
) -> ParsedRequest:
    """Parse a body into rows. Raises HttpError 422, 415 or 413 with the reason.

    `names` are the columns' names in the training files, by the task's: inputs may have them instead.
    """
    form, wanted = task.api_form(), columns_of(prediction_columns(task))
    allowance = DecodingAllowance(limits)
    reader = _RowReader(task, wanted, dict(names or {}), allowance)
    inputs = FormInputs(wanted, reader.other_names(), limits)
    fields = _form_fields(body, content_type, inputs, {*wanted, *reader.other_names(), INPUTS})
    if fields is None and _is_bare(body, content_type, wanted):
        name, column = next(iter(wanted.items()))
        value = allowance.count(lambda: column.receive_body(body, allowance), f"the body ({name})")
        row = {name: value}
        reader.note_undecoded(row, name, f"the body ({name})")
        return ParsedRequest([row], True, form, {}, allowance.decoded, reader.undecoded)
    if fields is None:
        document = _checked(_parsed(body, content_type, wanted), limits, form)
        single = not _is_batch(document["inputs"], wanted)
    else:
        document, several = inputs.document(fields)
        single = not several
    if document.get("stream"):
        raise wrong("stream is written; answers are not streamed: leave it out")
    parameters = parameters_of(task, document.get("parameters"))
    items = [document["inputs"]] if single else document["inputs"]
    parts = [_parts(form, item, number) for number, item in enumerate(items)]
    count = sum(1 if part is None else len(part) for part in parts)
    if count > limits.items:
        raise HttpError(413, "TooLarge", f"{count} inputs are asked at once; at most {limits.items} are allowed")
    rows = [
        reader.row(one, f"input {number}: ")
        for number, (item, part) in enumerate(zip(items, parts, strict=True))
        for one in ([item] if part is None else part)
    ]
    _refuse_long(rows, limits)
    counts = [None if part is None else len(part) for part in parts] if any(parts) else ()
    return ParsedRequest(rows, single, form, parameters, allowance.decoded, reader.undecoded, counts)


def _parts(form: ApiForm, item: Any, number: int) -> list[Any] | None:
    """Return the inputs of the rows that an input stands for; None for one row. Raises HttpError 422."""
    try:
        return None if form.several is None else form.several.split(item)
    except ValueError as error:
        raise wrong(f"input {number} {error}") from None


def _form_fields(body: bytes, content_type: str, inputs: FormInputs, names: set[str]) -> list[FormField] | None:
    """Return the fields of a form, or None for another body. Raises HttpError 415 for another kind of multipart."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == MULTIPART:
        return multipart_fields(body, content_type, inputs.most_fields())
    if media_type.startswith("multipart/"):
        raise HttpError(
            415,
            "UnreadBody",
            f"{media_type[:80]} is not read; allowed are {MULTIPART}, application/json, or the file's own bytes "
            "(curl --data-binary @FILE)",
        )
    beginning = _FIELD.match(body) if media_type == URLENCODED else None
    if beginning is None or beginning[1].decode("latin-1").removesuffix("[]").removesuffix("%5B%5D") not in names:
        return None
    return urlencoded_fields(body, inputs.most_fields())


def _is_bare(body: bytes, content_type: str, wanted: Mapping[str, Column]) -> bool:
    """Return whether the body is the only column's value itself, such as a picture's file.

    Many clients send no content type; files of such kinds never start like JSON.
    """
    if [bool(column.media_type) for column in wanted.values()] != [True] or "json" in content_type.lower():
        return False
    return not body[:64].removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{")


def _parsed(body: bytes, content_type: str, wanted: Mapping[str, Column]) -> Any:
    """Parse a JSON body. Raises HttpError 422, which names the way for a file under the media type of JSON."""
    try:
        return parse_json(body)
    except HttpError as error:
        media_type = next((column.media_type for column in wanted.values() if column.media_type), "")
        if not media_type or body[:64].isascii():
            raise
        how = f"if it is the file itself, write Content-Type: {media_type} in place of {content_type[:80]}"
        raise wrong(f"{error.message}; {how}") from None


def _checked(document: Any, limits: LimitSpec, form: ApiForm) -> dict[str, Any]:
    """Return a request's document. Raises HttpError 422 for one that is not an object with inputs.

    Parameters that clients of this form write beside the inputs are put where all others are.
    """
    refuse_deep(document, limits.depth)
    if not isinstance(document, dict):
        raise wrong(f'the body is a JSON {json_name(document)}; it is an object: {{"inputs": ...}}')
    beside = {key: document[key] for key in document if form.at_root and key in form.parameters}
    if beside and isinstance(document.get("parameters"), dict | None):
        rest = {key: value for key, value in document.items() if key not in beside}
        document = dict(rest, parameters={**beside, **(rest.get("parameters") or {})})
    for key in document:
        if key not in KEYS:
            raise wrong(f'{unknown("key", str(key)[:80], list(KEYS))} It is {{"inputs": ...}}')
    if "inputs" not in document:
        raise wrong('"inputs" is missing: write {"inputs": ...}')
    return dict(document)


def _is_batch(given: Any, wanted: Mapping[str, Column]) -> bool:
    """Return whether the inputs are several; a list of messages is one conversation."""
    if not isinstance(given, list):
        return False
    return len(wanted) > 1 or not next(iter(wanted.values())).is_one(given)


class DecodingAllowance:
    """Pixels (or samples) that the values of one request decode to, counted before any is decoded."""

    def __init__(self, limits: LimitSpec) -> None:
        self._limits, self.decoded, self._where = limits, 0, ""

    def count(self, receive: Callable[[], Any], where: str) -> Any:
        """Return the value of `receive`. Raises HttpError 422 or 413 with the problem of the value, named `where`."""
        self._where = where
        try:
            return receive()
        except TooLarge as error:
            raise HttpError(413, "TooLarge", error.of(where)) from None
        except BadCell as error:
            raise wrong(error.of(where)) from None

    def decode(self, count: int, described: str) -> None:
        """Count the pixels of one value (`contracts.Allowance`). Raises HttpError 413 when they are too many."""
        one, together = self._limits.megapixels, self._limits.all_megapixels
        if count > one * 1e6:
            problem = f"{described}; at most {one:g} megapixels are allowed"
            raise HttpError(413, "TooLarge", f"{self._where}: {problem}")
        self.decoded += count
        if self.decoded > together * 1e6:
            problem = f"at most {together:g} megapixels of all pictures together are allowed: send fewer"
            raise HttpError(413, "TooLarge", f"{self._where}: {problem}")


@dataclass(frozen=True, slots=True)
class _RowReader:
    """Reads the inputs of one request as rows."""

    task: Task
    wanted: Mapping[str, Column]
    names: Mapping[str, Names]
    """The columns' names in the training files, by the task's."""
    allowance: DecodingAllowance
    undecoded: list[UndecodedValue] = field(default_factory=list)

    def other_names(self) -> dict[str, str]:
        """Return single columns by the other names that clients send for them."""
        trained = {file: name for name, file in self.names.items() if isinstance(file, str) and name in self.wanted}
        return {**trained, **self.task.api_names}

    def row(self, item: Any, where: str) -> dict[str, Any]:
        """Return one input as a row: the value of the only column, or an object of all columns."""
        given = self._by_name(item, where)
        missing = [name for name in self.wanted if given.get(name) is None]
        if missing:
            raise wrong(f"{where}{missing[0]!r} is missing; an input has {shown_columns(self.wanted, self.names)}")
        row = {name: self._value(column, given[name], f"{where}{name}") for name, column in self.wanted.items()}
        for name in row:
            self.note_undecoded(row, name, f"{where}{name}")
        return row

    def note_undecoded(self, row: dict[str, Any], name: str, where: str) -> None:
        """Note a value of a row that is to be decoded by another process."""
        if isinstance(value := row[name], UndecodedFile):
            self.undecoded.append(UndecodedValue(row, name, value, self.allowance, where))

    def _by_name(self, item: Any, where: str) -> Mapping[str, Any]:
        if isinstance(item, dict):
            given = with_task_names(self._renamed(item), self.names, partial(self._joined, where))
            known = {*self.task.input_columns(), *names_of_cells(self.names)}
            for name in given:
                if name not in known:
                    raise wrong(f"{where}{unknown('column', str(name)[:80], sorted(self.wanted))}")
            return given
        if len(self.wanted) == 1:
            return {next(iter(self.wanted)): item}
        example = ", ".join(f'"{name}": ...' for name in self.wanted)
        raise wrong(f"{where}{with_article(json_name(item))} is given; an input of this model is {{{example}}}")

    def _renamed(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return the input with the model's column names in place of those that clients send."""
        renamed = {other: name for other, name in self.task.api_names.items() if other in item and name in self.wanted}
        renamed = {other: name for other, name in renamed.items() if name not in item}
        return {renamed.get(name, name): value for name, value in item.items()} if renamed else item

    def _joined(self, where: str, name: str, cells: Mapping[str, Any]) -> Any:
        """Return the value that several columns of the training files make; None for one that is not wanted."""
        if name not in self.wanted:
            return None
        column = self.wanted[name]
        received = {
            each: None if cell is None else self._value(column, cell, f"{where}{each}") for each, cell in cells.items()
        }
        return self.allowance.count(lambda: column.join(received, ""), f"{where}{name}")

    def _value(self, column: Column, value: Any, where: str) -> Any:
        """Return a JSON value, or a file of a form, as the column's own."""
        receive = column.receive_body if isinstance(value, bytes) else column.receive
        return self.allowance.count(lambda: receive(value, self.allowance), where)


def _refuse_long(rows: list[dict[str, Any]], limits: LimitSpec) -> None:
    """Raise HttpError 413, without a tokenizer, for more characters than the allowed tokens can have.

    Each word or message counts as one character at least: a request could contain any number of empty ones.
    """
    most = limits.tokens * LONGEST_TOKEN
    count = sum(_characters(value) for row in rows for value in row.values())
    if count > most:
        raise HttpError(413, "TooLarge", f"{count:,} characters are asked at once; at most {most:,} are allowed")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return len(value) + sum(map(_characters, value.values()))
    return len(value) + sum(map(_characters, value)) if isinstance(value, list) else 0
