"""What does a request ask? Its body, read within limits, as the rows that the model's task reads.

Everything here is reached by whoever reaches the endpoint: sizes are counted while bytes arrive, a picture's header is
looked at before it is decoded, and a text never names a file or an address that the server would then open.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from regraft.contracts import Kind, Task
from regraft.endpoint.http_errors import HttpError, busy, wrong
from regraft.endpoint.inference_api import ApiForm, form_of, parameters_of
from regraft.errors import DataError
from regraft.media.pixels.images import UNREADABLE, seen_size
from regraft.plugins import unknown
from regraft.serving.row_checks import inputs
from regraft.spec.serve import LimitSpec

LONGEST_TOKEN = 16
"""Characters of a token, at most, when a text's tokens are to be counted without a tokenizer."""
ESCAPED = 6
"""Bytes of a character in JSON, at most (\\uXXXX)."""
MOST_BUFFERED = 512 << 20
"""Bytes of bodies that are not whole yet, of all requests together."""
LARGEST = 1 << 63
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
KEYS = ("inputs", "parameters", "options", "stream")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request understood: rows for the task, and the form of the reply."""

    rows: list[dict[str, Any]]
    single: bool
    form: ApiForm
    parameters: Mapping[str, Any]


class ClientDisconnected(Exception):
    """Who asked has hung up."""


def most_bytes(task: Task, limits: LimitSpec) -> int:
    """Bytes that a body may have: for texts no more than their tokens can be."""
    if "image" in inputs(task).values():
        return limits.body_bytes
    return min(limits.body_bytes, limits.tokens * LONGEST_TOKEN * ESCAPED + (1 << 16))


class BodyBudget:
    """How many bodies are on their way, and how much of them is here already."""

    def __init__(self, most: int, most_bytes: int = MOST_BUFFERED) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._count = self._bytes = 0

    def full(self) -> bool:
        """Whether no other body may begin."""
        return self._count >= self._most or self._bytes >= self._most_bytes

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """A body on its way; what is given is told of each piece. Refusal 503 when there is no room for it."""
        took = 0

        def take(count: int) -> None:
            nonlocal took
            took += count
            self._bytes += count
            if self._bytes > self._most_bytes:
                raise busy("too much is on its way at once: come again", kind="Overloaded")

        self._count += 1
        try:
            yield take
        finally:
            self._count -= 1
            self._bytes -= took


async def body_of(receive: Receive, written: str | None, most: int, seconds: float, room: BodyBudget) -> bytes:
    """The whole body. Refusal 413 as soon as it is too large, 408 when it takes too long; Gone when nobody is there."""
    if written is not None and written.isdecimal() and int(written[:20]) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(seconds):
            with room.one() as take:
                return await _read(receive, most, take)
    except TimeoutError:
        raise HttpError(408, "TooSlow", f"the body did not arrive within {seconds:g} seconds") from None


async def _read(receive: Receive, most: int, take: Callable[[int], None]) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):  # nearly always: one piece
        only: bytes = message.get("body", b"")
        if len(only) > most:
            raise _too_large(most)
        return only
    whole = bytearray()  # no list of pieces: those may be of one byte each
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        piece = message.get("body", b"")
        whole += piece
        take(len(piece))
        if len(whole) > most:
            raise _too_large(most)
        if not message.get("more_body"):
            return bytes(whole)
        message = await receive()


def _too_large(most: int) -> HttpError:
    return HttpError(413, "TooLarge", f"the body is larger than {most:,} bytes, which are allowed for this model")


def parse_request(body: bytes, content_type: str, task: Task, limits: LimitSpec) -> ParsedRequest:
    """The rows that a body asks about; Refusal 422 or 413 says what is wrong with it."""
    form, wanted = form_of(task), inputs(task)
    if _is_picture(body, content_type, wanted):
        name = next(iter(wanted))
        data, _ = _picture(body, limits)
        return ParsedRequest([{name: data}], True, form, {})
    document = _parsed(body)
    _refuse_deep(document, limits.depth)
    if not isinstance(document, dict):
        raise wrong(f'the body is a JSON {type(document).__name__}; it is an object: {{"inputs": ...}}')
    for key in document:
        if key not in KEYS:
            raise wrong(f'{unknown("key", str(key)[:80], list(KEYS))} It is {{"inputs": ...}}')
    if "inputs" not in document:
        raise wrong('"inputs" is missing: write {"inputs": ...}')
    if document.get("stream"):
        raise wrong("stream is asked; answers come whole: leave it out")
    parameters = parameters_of(form, task, document.get("parameters"))
    given = document["inputs"]
    single = not _is_batch(given, wanted)
    items = [given] if single else given
    if len(items) > limits.items:
        raise HttpError(413, "TooLarge", f"{len(items)} inputs are asked at once; at most {limits.items} are allowed")
    pixels = _Pixels(limits)
    rows = [_row(item, wanted, pixels, "" if single else f"input {number}: ") for number, item in enumerate(items)]
    _refuse_long(rows, limits)
    return ParsedRequest(rows, single, form, parameters)


def _is_picture(body: bytes, content_type: str, wanted: Mapping[str, Kind]) -> bool:
    """Whether the body is a picture's own bytes; many clients name no type, and no picture begins as JSON does."""
    if list(wanted.values()) != ["image"] or "json" in content_type.lower():
        return False
    return not body[:64].lstrip().startswith(b"{")


def _parsed(body: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise wrong(f"{name} is written, which JSON does not have")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError:
        raise wrong("the body is no UTF-8: JSON is written in it") from None
    except RecursionError:
        raise wrong("the JSON is nested too deep") from None
    except ValueError as error:
        raise wrong(f"the body is no JSON: {str(error)[:120]}") from None


def _refuse_deep(document: Any, most: int) -> None:
    level = [document]
    for _ in range(most):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise wrong(f"the JSON is nested deeper than {most}")


def _is_batch(given: Any, wanted: Mapping[str, Kind]) -> bool:
    """Whether a list is several inputs; a list of messages is one conversation."""
    if not isinstance(given, list):
        return False
    if list(wanted.values()) == ["messages"]:
        return not any(isinstance(item, dict) and "role" in item for item in given)
    return True


class _Pixels:
    """How many pixels the images of a request have, as they are looked at."""

    def __init__(self, limits: LimitSpec) -> None:
        self._limits, self._seen = limits, 0

    def picture(self, data: bytes, where: str) -> bytes:
        """The bytes, when they are a picture that may be decoded beside those before it."""
        data, count = _picture(data, self._limits, where)
        self._seen += count
        if self._seen > self._limits.all_megapixels * 1e6:
            most = (
                f"at most {self._limits.all_megapixels:g} megapixels of all pictures together are allowed: send fewer"
            )
            raise HttpError(413, "TooLarge", f"{where}: {most}")
        return data


def _row(item: Any, wanted: Mapping[str, Kind], pixels: _Pixels, where: str) -> dict[str, Any]:
    """One input as a row: the value of the only column, or an object of all columns."""
    if isinstance(item, dict):
        given = _renamed(item, wanted)
        for name in given:
            if name not in wanted:
                raise wrong(f"{where}{unknown('column', str(name)[:80], sorted(wanted))}")
    elif len(wanted) == 1:
        given = {next(iter(wanted)): item}
    else:
        example = ", ".join(f'"{name}": ...' for name in wanted)
        raise wrong(f"{where}a {_called(item)} is given; an input of this model is {{{example}}}")
    missing = [name for name in wanted if given.get(name) is None]
    if missing:
        raise wrong(f"{where}{missing[0]!r} is missing; an input has {', '.join(wanted)}")
    return {name: _value(kind, given[name], pixels, f"{where}{name}") for name, kind in wanted.items()}


def _renamed(item: dict[str, Any], wanted: Mapping[str, Kind]) -> dict[str, Any]:
    """The Inference API calls the second of two texts `text_pair`."""
    if "pair" in wanted and "text_pair" in item and "pair" not in item:
        return {("pair" if name == "text_pair" else name): value for name, value in item.items()}
    return item


def _value(kind: Kind, value: Any, pixels: _Pixels, where: str) -> Any:
    if kind == "image":
        return pixels.picture(_unpacked(value, where), where)
    if kind == "text":
        return _text(value, where)
    if kind == "words":
        return [_text(word, where) for word in value] if isinstance(value, list) else _text(value, where)
    if kind == "messages":
        return _messages(value, where)
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(f"{where} is a {_called(value)}; allowed is a number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise wrong(f"{where} has {len(str(abs(value)))} digits, which are more than a number here can have")
        return value
    if isinstance(value, list):
        return [_text(each, where) if isinstance(each, str) else each for each in value]
    return _text(value, where) if isinstance(value, str) else value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(f"{where} is a {_called(value)}; allowed is a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(f"{where} holds half of a surrogate pair, which is no character") from None
    return value


def _messages(value: Any, where: str) -> list[dict[str, str]]:
    """A conversation; a bare text is what its user says."""
    if isinstance(value, str):
        return [{"role": "user", "content": _text(value, where)}]
    good = isinstance(value, list) and all(
        isinstance(item, dict) and {"role", "content"} == set(item) for item in value
    )
    if not good or not value:
        raise wrong(f"{where} is a {_called(value)}; allowed is a text, or a list of {{role, content}}")
    return [{name: _text(each, f"{where}.{name}") for name, each in item.items()} for item in value]


def _unpacked(value: Any, where: str) -> bytes:
    """A picture's bytes out of base64, with or without `data:image/png;base64,` before it."""
    if not isinstance(value, str):
        raise wrong(f"{where} is a {_called(value)}; allowed is a picture's file in base64")
    if value[:5].lower() == "data:":
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise wrong(f"{where} is no base64: send a picture's file in it, not its name or address") from None


def _picture(data: bytes, limits: LimitSpec, where: str = "the body") -> tuple[bytes, int]:
    """The bytes, when they are a picture that may be decoded, and how many pixels it has."""
    if not data:
        raise wrong(f"{where} is empty; it is a picture's file")
    try:
        _refuse_strange(data, where)
        width, height = seen_size(data)
    except DataError as error:
        if "at most" in error.message:
            raise HttpError(413, "TooLarge", f"{where}: {error.message}") from None
        raise wrong(f"{where}: {error.message}") from None
    if width * height > limits.megapixels * 1e6:
        told = f"{width} x {height} pixels; at most {limits.megapixels:g} megapixels are allowed"
        raise HttpError(413, "TooLarge", f"{where}: the picture has {told}")
    return data, width * height


def _refuse_strange(data: bytes, where: str) -> None:
    """Nothing but formats of pictures alone: Pillow also reads some that hold programs (EPS), which it would have
    another program run, and some whose picture has another size than their header says (ICO, ICNS)."""
    try:
        Image.open(io.BytesIO(data), formats=FORMATS).close()
    except UnidentifiedImageError:
        raise wrong(f"{where} is no image of a known format; allowed are {', '.join(FORMATS)}") from None
    except (*UNREADABLE, Image.DecompressionBombError):
        return  # `seen_size` says what is wrong with it


def _refuse_long(rows: list[dict[str, Any]], limits: LimitSpec) -> None:
    """Before a tokenizer is asked: what has more characters than its tokens could have need not be cut into them.

    A word or message counts as one at least: of empty ones there could be any number.
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


def _called(value: Any) -> str:
    names = {"str": "text", "dict": "JSON object", "list": "list", "NoneType": "null", "bool": "boolean"}
    return names.get(type(value).__name__, "number")
