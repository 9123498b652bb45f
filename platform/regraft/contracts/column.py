"""Column: what one kind of column holds, and how its values are read, kept, requested and made up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa

from regraft.contracts.views import AnswerView, ShownRow, ViewPart, predicted_text, short_text, text_view
from regraft.plugins import Plugin

SHOWN = 60
"""Characters of a bad value that a message quotes."""
JSON_NAMES = {"str": "text", "dict": "JSON object", "list": "list", "NoneType": "null", "bool": "boolean"}
Widget = Literal["text", "number", "lines", "file", "json"]
"""How the endpoint's page asks for a value: a text area, a number field, one text a line, a file, or raw JSON."""


class BadCell(ValueError):
    """A value that does not fit its column; the message continues a sentence that names the column."""

    def __init__(self, problem: str, inside: str = "") -> None:
        """`inside` is the place inside the value that the problem is about, such as `.role`."""
        super().__init__(problem)
        self._inside = inside

    @classmethod
    def unfit(cls, value: object, wanted: str) -> BadCell:
        """Return the error for an absent value, or for one of the wrong type."""
        return cls("is missing" if absent(value) else f"is {quoted(value)}; {wanted} is wanted")

    def of(self, name: str) -> str:
        """Return the sentence about the value that is called `name`."""
        return f"{name}{self._inside} {self}"


class TooLarge(BadCell):
    """A value that would take too much memory once decoded."""


class Allowance(Protocol):
    """The decoding that a request may still cause; the endpoint counts it."""

    def decode(self, count: int, described: str) -> None:
        """Count numbers (pixels, samples) that a value decodes to; `described` begins the refusal of too many."""
        ...


@dataclass(frozen=True, slots=True)
class MadeUp:
    """The choices that all made-up values of one row share, so that they agree with each other."""

    number: int
    """The row's index: values of different rows differ."""
    words: tuple[str, ...]
    """The words of a text."""
    size: tuple[int, int] = (96, 80)
    """Height and width of an image in pixels."""
    train: bool = False
    """Whether a model is to learn from the row: a conversation then holds a reply."""


class Column(Plugin, ABC):
    """A kind of column. A task names the kinds of its columns by their keys.

    A member states the Arrow type, parses a file's cell, and describes, checks and makes up values. The other methods
    have defaults that suit a kind whose values are plain numbers and strings, or lists and objects of them.
    """

    family: ClassVar[str] = "columns"
    arrow: ClassVar[pa.DataType]
    """How a snapshot keeps a value."""
    target: ClassVar[bool] = False
    """Whether a column of this kind holds what a model is to find out, unless a task says otherwise."""
    classes: ClassVar[bool] = False
    """Whether values are labels, from which the classes of the head are gathered."""
    counted: ClassVar[bool] = False
    """Whether the labels of all rows are counted, for class weights and baselines."""
    drawn: ClassVar[bool] = False
    """Whether a target of this kind is drawn on an input in a report, so that no words are needed."""
    by_reference: ClassVar[bool] = False
    """Whether values name files, whose contents can change while the value stays."""
    bare: ClassVar[bool] = False
    """Whether a caller may pass the bare value (text, path, bytes) for a row that has no other column."""
    media_type: ClassVar[str] = ""
    """The media type of a request body that is a bare value, such as `image/*`; empty where none is allowed."""
    widget: ClassVar[Widget] = "json"
    """How the endpoint's page asks for a value."""
    called: ClassVar[str] = "a value"
    """What the page and messages about requests call a value, with its article."""

    @abstractmethod
    def read_cell(self, cell: object, folder: str) -> Any:
        """Return a file's cell as a value. BadCell when it does not fit.

        `folder` is where relative paths begin: a folder on this machine, or an s3:// URL.
        """

    def stored(self, value: Any) -> Any:
        """Return the value as `arrow` holds it."""
        return value

    def restored(self, value: Any) -> Any:
        """Return the value that `stored` was given."""
        return value

    def fetched(self, value: Any) -> Any:
        """Return the value as `Task.encode` gets it: with the contents of a file that lies elsewhere."""
        return value

    def for_check(self, value: Any) -> Any:
        """Return the value as `Task.check` gets it: of a file that lies elsewhere, as much as the check needs."""
        return value

    def identity(self, value: Any) -> Any:
        """Return what a fingerprint knows the value by, JSON-able, wherever files lie."""
        return value

    def remote(self, cell: object, folder: str) -> str | None:
        """Return the URL that is worth fetching before the cell is parsed, or None."""
        return None

    def prefetch(self, url: str) -> None:
        """Fetch what `read_cell` needs of a URL that `remote` returned, and remember it."""

    def as_written(self, cell: object) -> str:
        """Return the key of the kind by which an input's cell is kept, when it is read for a prediction."""
        return self.key()

    def labels(self, value: Any) -> Iterable[str]:
        """Return every label in a value, as often as it occurs."""
        return ()

    def in_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return labels in the order of the head's outputs."""
        return ordered_labels(labels)

    def lacking(self, labels: Mapping[str, int], rows: int) -> str | None:
        """Return why these labels of all training rows, with their counts, cannot be learned; or None."""
        return None

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return a warning about labels that were probably meant otherwise, or None."""
        return None

    def accept(self, value: Any) -> Any:
        """Return a value that a Python caller passed, ready for `Task.encode`. BadCell when it does not fit."""
        return value

    def receive(self, value: Any, allowance: Allowance) -> Any:
        """Return a JSON value of a request as a value for `accept`. BadCell when it does not fit.

        Requests come from strangers: a text must never name a file or an address that the server then opens.
        """
        return well_formed(value)

    def receive_body(self, body: bytes, allowance: Allowance) -> Any:
        """Return a request's body as a value for `accept`, where `media_type` allows one. BadCell as in `receive`."""
        raise NotImplementedError

    def request_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a value in a request."""
        return {}

    def is_one(self, items: list[Any]) -> bool:
        """Return whether a JSON list is one value of the only column, rather than a list of several inputs."""
        return False

    def example(self, position: int) -> Any:
        """Return a value for documentation, as JSON; `position` is the column's place among the inputs."""
        return ""

    def placeholder(self) -> Any:
        """Return a value for the commands that a finished run prints: its form, without content."""
        return "..."

    def made_up(self, shared: MadeUp) -> Any:
        """Return a value that `accept` takes, or a target that `Task.encode` takes. BadCell where none can be made."""
        raise BadCell(f"of kind {self.key()} cannot be made up")

    def view(self, name: str, shown: ShownRow) -> ViewPart | None:
        """Return what a report shows of an input; None for nothing."""
        value = shown.row[name]
        return text_view(name, " ".join(map(str, value)) if isinstance(value, list) else str(value))

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> ViewPart | None:
        """Return the view of an input with the target `name` and the answer drawn on it; None where it cannot be."""
        return None

    def answer_view(self, shown: ShownRow) -> ViewPart:
        """Return what is true beside what the model answered; asked of the kind of the row's first target."""
        name = shown.targets[0]
        value = shown.row[name]
        truth = tuple(map(short_text, value)) if isinstance(value, list | tuple) else (short_text(value),)
        return AnswerView(name, truth, predicted_text(shown.answer), prose=True)

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the labels of made-up rows, in the order of the head's outputs."""
        return ()


@cache
def column_of(kind: str) -> Column:
    """Return the kind of column of that key. UnknownPlugin names the nearest and the known ones."""
    return Column.lookup(kind)()


def columns_of(kinds: Mapping[str, str]) -> dict[str, Column]:
    """Return the kinds of named columns, resolved once for many rows."""
    return {name: column_of(kind) for name, kind in kinds.items()}


def absent(value: object) -> bool:
    """Return whether a cell holds nothing: None, or the NaN that tables write in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def quoted(value: object) -> str:
    """Return a bad value with its type, cut where it is long."""
    text = repr(value)
    return f"{text[:SHOWN]}... ({type(value).__name__})" if len(text) > SHOWN else f"{text} ({type(value).__name__})"


def label_text(value: str | float) -> str:
    """Return a label or a group's name as text, without spaces around it; whole numbers without a decimal point."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # whole numbers in a column with gaps, as pandas writes it
        value = int(value)
    return str(value).strip()


def json_name(value: object) -> str:
    """Return what JSON calls the type of a value."""
    return JSON_NAMES.get(type(value).__name__, "number")


def received_text(value: Any, inside: str = "") -> str:
    """Return a request's text. BadCell for another type, or for half of a surrogate pair."""
    if not isinstance(value, str):
        raise BadCell(f"is a {json_name(value)}; allowed is a text", inside)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadCell("holds half of a surrogate pair, which is no character", inside) from None
    return value


def well_formed(value: Any) -> Any:
    """Return a JSON value unchanged. BadCell when a text in it holds half of a surrogate pair."""
    if isinstance(value, str):
        received_text(value)
    elif isinstance(value, list):
        for item in value:
            well_formed(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            well_formed(name)
            well_formed(item)
    return value


def ordered_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels by number when all are whole numbers, else by the alphabet."""
    known = tuple(labels)
    if all(label.removeprefix("-").isdecimal() and label.isascii() and len(label) < 20 for label in known):
        return tuple(sorted(known, key=lambda label: (int(label), label)))
    return tuple(sorted(known))
