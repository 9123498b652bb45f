"""Views of a row in a report: parts that the page's templates draw, and the means to make them of a column."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from PIL.Image import Image

from regraft.contracts.rows import Answer, Example, Kind, Row

MOST_LETTERS = 900
MOST_SCORES = 3
MOST_LISTED = 6
SMALL = 96
"""Images up to this size are stored without loss: every pixel of a digit or an icon counts."""

Span = tuple[str, str, bool]
"""A piece of a text, its entity type (empty if none), and whether truth and prediction agree on it."""


@dataclass(frozen=True)
class Thumbnail:
    """An image as a data URI, with the size of the original."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """True if it is enlarged, with pixels as squares."""
        return max(self.width, self.height) <= SMALL


class ThumbnailMaker(Protocol):
    """Makes the pictures that a page embeds, within its budget of bytes."""

    def add(self, image: Image) -> Thumbnail | None:
        """Return a picture of the image; None when the budget is spent."""
        ...


@dataclass(frozen=True)
class ViewPart:
    """One part of a row's view; `shape` names the template's block that draws it."""

    shape: ClassVar[str]
    name: str


@dataclass(frozen=True)
class TextView(ViewPart):
    """A text, cut when it is long."""

    shape: ClassVar[str] = "words"
    text: str
    more: int = 0
    """Letters that are left out."""


@dataclass(frozen=True)
class ConversationView(ViewPart):
    """A conversation: pairs of role and text."""

    shape: ClassVar[str] = "talk"
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EntitiesView(ViewPart):
    """A text twice: with its true entities and with the predicted ones."""

    shape: ClassVar[str] = "entities"
    truth: tuple[Span, ...]
    predicted: tuple[Span, ...]


@dataclass(frozen=True)
class ImageView(ViewPart):
    """An image, or why there is none."""

    shape: ClassVar[str] = "photo"
    picture: Thumbnail | None


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the original."""

    label: str
    x: float
    y: float
    width: float
    height: float
    score: float | None = None


@dataclass(frozen=True)
class BoxesView(ViewPart):
    """An image with true and predicted boxes drawn on it."""

    shape: ClassVar[str] = "boxes"
    picture: Thumbnail | None
    truth: tuple[Box, ...]
    predicted: tuple[Box, ...]

    def listed(self, boxes: tuple[Box, ...]) -> tuple[str, ...]:
        """Return the boxes as texts: each with its score, or how many of each label where there are many."""
        if len(boxes) > MOST_LISTED:
            return tuple(f"{label} × {count}" for label, count in Counter(box.label for box in boxes).most_common())
        return tuple(box.label if box.score is None else f"{box.label} {box.score:.3f}" for box in boxes)


@dataclass(frozen=True)
class MaskView(ViewPart):
    """An image with its true classes drawn on it, and the same image with the predicted ones."""

    shape: ClassVar[str] = "masks"
    truth: Thumbnail | None
    predicted: Thumbnail | None
    legend: tuple[tuple[str, str], ...]
    """Class and its colour, as in CSS."""


@dataclass(frozen=True)
class AnswerView(ViewPart):
    """The target and the prediction as texts."""

    shape: ClassVar[str] = "verdict"
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    scores: tuple[tuple[str, float], ...] = ()
    """The likeliest labels, with their scores."""
    several: bool = False
    """Whether truth and answer are sets, whose members are compared one by one."""
    prose: bool = False
    """Whether truth and answer are long texts, not labels or numbers."""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row with its answer, from which kinds of columns make view parts."""

    row: Row
    answer: Answer
    kinds: Mapping[str, Kind]
    """The kinds of the row's columns by name."""
    targets: tuple[str, ...]
    """The target columns, in order."""
    labels: tuple[str, ...]
    """The model's labels, in the order of its outputs."""
    processor: Any
    """The base's tokenizer or other processor."""
    encode: Callable[[], Example]
    """Encodes the row as the task does, for targets that the task translates."""
    thumbnails: ThumbnailMaker

    def target_of(self, kind: Kind) -> Any:
        """Return the value of the target of that kind, or None."""
        return next((self.row[name] for name in self.targets if self.kinds[name] == kind), None)


def text_view(name: str, text: str) -> TextView:
    """Return a text, cut where it is long."""
    return TextView(name, text[:MOST_LETTERS], max(0, len(text) - MOST_LETTERS))


def short_text(value: Any) -> str:
    """Return a value as text, cut where it is long; numbers with four digits."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} … and {len(text) - MOST_LETTERS} letters more"


def predicted_text(answer: Answer) -> tuple[str, ...]:
    """Return an answer's label, text or number; if it has none, the whole answer as JSON."""
    plain = [value for value in answer.values() if isinstance(value, str | int | float)]
    if plain:
        return (short_text(answer.get("label", plain[0])),)
    return (short_text(json.dumps(answer, ensure_ascii=False, default=str)),)


def likeliest(answer: Answer) -> tuple[tuple[str, float], ...]:
    """Return the labels with the highest scores."""
    found = [(str(item["label"]), float(item["score"])) for item in answer.get("scores", ())]
    return tuple(found[:MOST_SCORES])
