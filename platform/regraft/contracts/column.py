"""Column: one kind of column, with methods that parse, store, request, show and make up its values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa

from regraft.contracts.file_ref import EmbeddedFile
from regraft.contracts.likeness import CellSample, Likeness
from regraft.contracts.views import AnswerView, ShownRow, ViewPart, predicted_text, short_text, text_view
from regraft.plugins import Plugin
from regraft.units import with_article

SHOWN = 60
"""Characters of a bad value that a message quotes."""
JSON_NAMES = {"str": "text", "dict": "JSON object", "list": "list", "NoneType": "null", "bool": "boolean"}
Widget = Literal["text", "number", "lines", "file", "json"]
"""The input element of the endpoint's page: a text area, a number field, one text a line, a file, or raw JSON."""


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
        """Return the message as a sentence whose subject is `name`."""
        return f"{name}{self._inside} {self}"


class TooLarge(BadCell):
    """A value that would take too much memory once decoded."""


class Allowance(Protocol):
    """A request's remaining budget of values to decode."""

    def decode(self, count: int, described: str) -> None:
        """Charge `count` pixels or samples to the budget; `described` begins the message if they are too many."""
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
    """Whether the row is for training: a conversation then has a reply."""


class Column(Plugin, ABC):
    """A kind of column. A task names the kinds of its columns by their keys.

    A member states the Arrow type, parses a file's cell, and describes, checks and makes up values. The other methods
    have defaults that suit a kind whose values are plain numbers and strings, or lists and objects of them.
    """

    family: ClassVar[str] = "columns"
    arrow: ClassVar[pa.DataType]
    """The Arrow type of a value in a snapshot."""
    target: ClassVar[bool] = False
    """Whether a column of this kind is a target by default; a task may decide otherwise."""
    classes: ClassVar[bool] = False
    """Whether values are labels, from which the classes of the head are gathered."""
    counted: ClassVar[bool] = False
    """Whether the labels of all rows are counted, for class weights and baselines."""
    drawn: ClassVar[bool] = False
    """Whether a report draws a target of this kind on an input, instead of writing it."""
    by_reference: ClassVar[bool] = False
    """Whether values are paths of files, whose contents can change."""
    optional: ClassVar[bool] = False
    """Whether a row may lack the value; it is then None in the row, for which no other method is called."""
    joins: ClassVar[bool] = False
    """Whether `data.columns` may name several columns of a file for one value: see `join`."""
    bare: ClassVar[bool] = False
    """Whether a caller may pass the value itself (text, path, bytes) as a row, if the row has no other column."""
    media_type: ClassVar[str] = ""
    """The media type of a request body that is a bare value, such as `image/*`; empty where none is allowed."""
    plain: ClassVar[str] = ""
    """What a baseline without a base reads of an input, by `plain_input`: `words`, `colours`; empty for nothing."""
    widget: ClassVar[Widget] = "json"
    """The input element of the endpoint's page."""
    called: ClassVar[str] = "a value"
    """The name of a value on the page and in messages about requests, with its article."""

    @abstractmethod
    def read_cell(self, cell: object, folder: str) -> Any:
        """Parse a file's cell into a value. BadCell when it does not fit.

        `folder` is where relative paths begin: a folder on this machine, or an s3:// URL.
        """

    def in_row(self, value: Any, row: Mapping[str, Any], columns: Mapping[str, Column]) -> Any:
        """Return a parsed value converted to agree with the other values of its row. BadCell when it does not.

        `columns` are the kinds of the row's columns by name.
        """
        return value

    def join(self, cells: Mapping[str, object], folder: str) -> Any:
        """Parse the cells of several columns, by their names, into one value; called where `joins`.

        The message of a BadCell names the column that it is about.
        """
        raise NotImplementedError

    def stored(self, value: Any) -> Any:
        """Convert a value to the type `arrow`."""
        return value

    def restored(self, value: Any) -> Any:
        """Convert a stored value back: the inverse of `stored`."""
        return value

    def fetched(self, value: Any) -> Any:
        """Return the value for `Task.encode`: the contents instead of a path in S3."""
        return value

    def for_check(self, value: Any) -> Any:
        """Return the value for `Task.check`: as much of a file in S3 as the check needs."""
        return value

    def identity(self, value: Any) -> Any:
        """Return the value's contribution to a fingerprint, as JSON; it does not depend on the place of files."""
        return value

    def remote(self, cell: object, folder: str) -> str | None:
        """Return the URL of a file in S3 that a cell names, or None."""
        return None

    def ahead(self, cell: object, folder: str) -> str | EmbeddedFile | None:
        """Return the file to `prefetch` before the cell is parsed, by its name or with its content; or None."""
        return self.remote(cell, folder)

    def is_known(self, file: str | EmbeddedFile) -> bool:
        """Return whether `prefetch` has nothing to do for a file from `ahead`."""
        return False

    def prefetch(self, file: str | EmbeddedFile) -> None:
        """Fetch and remember what `read_cell` needs of a file from `ahead`. Called in any thread."""

    def fetched_all(self) -> None:
        """Called when all rows of a reading are parsed: what was remembered may be written down."""

    def as_written(self, cell: object) -> str:
        """Return the key of the kind that stores an input's cell during a batch prediction."""
        return self.key()

    def labels(self, value: Any) -> Iterable[str]:
        """Return every label in a value, as often as it occurs."""
        return ()

    def in_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return labels in the order of the head's outputs."""
        return ordered_labels(labels)

    def lacking(self, labels: Mapping[str, int], rows: int) -> str | None:
        """Return the reason why these label counts of the training rows cannot be learned, or None."""
        return None

    def doubts(self, labels: Iterable[str]) -> str | None:
        """Return a warning about labels that are probably a mistake, or None."""
        return None

    def remark(self, value: Any) -> str | None:
        """Return what a user should know about a parsed value that is usable but doubtful, or None.

        The same text is counted over all rows and reported once, so it names no row.
        """
        return None

    def instead(self, values: Mapping[str, Any]) -> str | None:
        """Return how to read a file that lacks this column, by its first row, or None where that is not known."""
        return None

    def likeness(self, sample: CellSample) -> Likeness | None:
        """Return how much a column of a file looks like this kind; None where only its name could show it."""
        return None

    def described(self, sample: CellSample) -> tuple[str, str] | None:
        """Return a subject and what a look at data says about it of a column of this kind; None for nothing."""
        return None

    def accept(self, value: Any) -> Any:
        """Check and convert a value from a Python caller for `Task.encode`. BadCell when it does not fit."""
        return value

    def receive(self, value: Any, allowance: Allowance) -> Any:
        """Convert a request's JSON value to a value for `accept`. BadCell when it does not fit.

        Requests come from strangers: a text must never name a file or an address that the server then opens.
        """
        return well_formed(value)

    def receive_body(self, body: bytes, allowance: Allowance) -> Any:
        """Convert a request's body of type `media_type` to a value for `accept`. BadCell as in `receive`."""
        raise NotImplementedError

    def request_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a value in a request."""
        return {}

    def is_one(self, items: Any) -> bool:
        """Return whether a list is one value of the only column, rather than several inputs.

        It is a JSON list, or whatever a Python caller gives in place of rows.
        """
        return False

    def example(self, position: int) -> Any:
        """Return a value for documentation, as JSON; `position` is the column's place among the inputs."""
        return ""

    def placeholder(self) -> Any:
        """Return a placeholder value for the example commands that a finished run prints."""
        return "..."

    def made_up(self, shared: MadeUp) -> Any:
        """Return a dummy value for `accept`, or a dummy target for `Task.encode`. BadCell where none can be made."""
        raise BadCell(f"of kind {self.key()} cannot be made up")

    def view(self, name: str, shown: ShownRow) -> ViewPart | None:
        """Return a report's view of an input, or None."""
        value = shown.row[name]
        return text_view(name, " ".join(map(str, value)) if isinstance(value, list) else str(value))

    def drawn_on(self, input_name: str, name: str, shown: ShownRow) -> ViewPart | None:
        """Return the view of an input with the target `name` and the answer drawn on it; None where it cannot be."""
        return None

    def answer_view(self, shown: ShownRow) -> ViewPart:
        """Return the view of the target and the prediction; called on the kind of the row's first target."""
        name = shown.targets[0]
        value = shown.row[name]
        truth = tuple(map(short_text, value)) if isinstance(value, list | tuple) else (short_text(value),)
        return AnswerView(name, truth, predicted_text(shown.answer), prose=True)

    def made_up_labels(self) -> tuple[str, ...]:
        """Return the labels of made-up rows, in the order of the head's outputs."""
        return ()

    def plain_input(self, value: Any) -> str | Sequence[float]:
        """Return what a baseline without a base reads of an input; called where `plain` says what that is.

        A text, whose words are counted, or numbers whose squares sum to 1, equally many for every value. Raises
        DataError for a file that cannot be read.
        """
        raise NotImplementedError


@cache
def column_of(kind: str) -> Column:
    """Return the kind of column with that key. Raises UnknownPlugin, which names the nearest and the known ones."""
    return Column.lookup(kind)()


def columns_of(kinds: Mapping[str, str]) -> dict[str, Column]:
    """Replace the keys of kinds by the kinds themselves; call it once for many rows."""
    return {name: column_of(kind) for name, kind in kinds.items()}


def absent(value: object) -> bool:
    """Return whether a cell holds nothing: None, or the NaN that tables write in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def quoted(value: object) -> str:
    """Return a bad value with its type, shortened to SHOWN characters."""
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
    """Return the JSON name of a value's type."""
    return JSON_NAMES.get(type(value).__name__, "number")


def received_text(value: Any, inside: str = "") -> str:
    """Return a request's text. BadCell for another type, or for half of a surrogate pair."""
    if not isinstance(value, str):
        raise BadCell(f"is {with_article(json_name(value))}; allowed is a text", inside)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadCell("holds half of a surrogate pair, which is not a character", inside) from None
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
    """Sort labels by number when all are whole numbers, else alphabetically."""
    known = tuple(labels)
    if all(label.removeprefix("-").isdecimal() and label.isascii() and len(label) < 20 for label in known):
        return tuple(sorted(known, key=lambda label: (int(label), label)))
    return tuple(sorted(known))
