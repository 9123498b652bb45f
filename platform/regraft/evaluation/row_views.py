"""How is one row shown, with its truth and with what the model said? By the kinds of its columns, whatever the task."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from regraft.bases.adapted import Adapted
from regraft.contracts import Answer, Kind, Row
from regraft.evaluation.mask_overlay import mask_overlays
from regraft.evaluation.thumbnails import Thumbnail, Thumbnails, displayed_image

MOST_LETTERS = 900
MOST_SCORES = 3
MOST_LISTED = 6

Span = tuple[str, str, bool]
"""A piece of a text, the type of the entity that it is (or nothing), and whether the other side has it too."""


@dataclass(frozen=True)
class ViewPart:
    """One thing shown of a row; `shape` names the template's piece that draws it."""

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
    """A conversation: who says what."""

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
        """The boxes in words: each with its score, or how many of each label where there are many."""
        if len(boxes) > MOST_LISTED:
            return tuple(f"{label} × {count}" for label, count in Counter(box.label for box in boxes).most_common())
        return tuple(box.label if box.score is None else f"{box.label} {box.score:.3f}" for box in boxes)


@dataclass(frozen=True)
class MaskView(ViewPart):
    """An image under its true classes, beside the same under the predicted ones."""

    shape: ClassVar[str] = "masks"
    truth: Thumbnail | None
    predicted: Thumbnail | None
    legend: tuple[tuple[str, str], ...]
    """Class and its colour, as in CSS."""


@dataclass(frozen=True)
class AnswerView(ViewPart):
    """What is true and what was said, in words."""

    shape: ClassVar[str] = "verdict"
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    scores: tuple[tuple[str, float], ...] = ()
    """The likeliest labels, with what the model gave them."""
    several: bool = False
    """Whether truth and answer are sets, each member right by itself."""
    prose: bool = False
    """Whether they are texts, to be read rather than looked up."""


@dataclass(frozen=True)
class RowView:
    """A row as a page shows it."""

    row: int
    error: float
    wrong: bool
    parts: tuple[ViewPart, ...]
    answer: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    """The name of the row's image file, where it has one."""


def view_parts(row: Row, answer: Answer, mask: Any, thumbnails: Thumbnails, adapted: Adapted) -> tuple[ViewPart, ...]:
    """What is shown of a row, by the kinds of its columns; `mask` are its true class numbers where it has a mask."""
    return tuple(_view_parts(row, answer, mask, thumbnails, adapted))


def image_file_name(row: Row, kinds: Mapping[str, Kind]) -> str:
    """The name of the file that a row's image lies in, by which people know it."""
    named = [row[name] for name, kind in kinds.items() if kind == "image" and isinstance(row[name], str)]
    return named[0].rsplit("/", 1)[-1] if named else ""


def _view_parts(row: Row, answer: Answer, mask: Any, thumbnails: Thumbnails, adapted: Adapted) -> Iterator[ViewPart]:
    kinds, targets = adapted.task.stored_columns(), adapted.task.target_columns()
    true = {kind: row[name] for name, kind in kinds.items() if name in targets}
    decoded = False
    for name, kind in kinds.items():
        if name in targets:
            continue
        if kind == "image":
            yield _image_view(name, row[name], true, mask, answer, thumbnails, adapted.context.labels)
        elif kind == "words" and "tags" in true:
            yield _entities_view(name, row[name], true["tags"], answer)
        elif kind == "messages":
            yield ConversationView(name, tuple((line["role"], line["content"][:MOST_LETTERS]) for line in row[name]))
        elif kind != "tokens":
            yield _text_view(name, " ".join(map(str, row[name])) if isinstance(row[name], list) else str(row[name]))
        elif not decoded:  # of what a task packs, the first column is the text; others say what counts of it
            decoded = True
            yield _text_view(name, str(adapted.context.processor.decode(row[name])))
    if verdict := _answer_view(row, answer, kinds, targets):
        yield verdict


def _text_view(name: str, text: str) -> TextView:
    return TextView(name, text[:MOST_LETTERS], max(0, len(text) - MOST_LETTERS))


def _image_view(
    name: str,
    value: Any,
    true: Mapping[Kind, Any],
    mask: Any,
    answer: Answer,
    thumbnails: Thumbnails,
    labels: tuple[str, ...],
) -> ImageView | BoxesView | MaskView:
    image = displayed_image(value)
    if "mask" in true and image is not None:
        return MaskView(name, *mask_overlays(image, mask, answer, thumbnails, labels))
    picture = None if image is None else thumbnails.add(image)
    if "boxes" in true:
        true_boxes = tuple(Box(label, *box) for label, box in zip(true["labels"], true["boxes"], strict=True))
        return BoxesView(name, picture, true_boxes, tuple(_objects(answer)))
    return ImageView(name, picture)


def _objects(answer: Answer) -> Iterator[Box]:
    for item in answer.get("objects", ()):
        left, top, right, bottom = (item["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
        yield Box(str(item["label"]), left, top, right - left, bottom - top, float(item["score"]))


def _entities_view(name: str, words: Sequence[str], tags: Sequence[str], answer: Answer) -> EntitiesView:
    """Entities stand by letters in the words joined by blanks, as answers count them."""
    text, ends, at = " ".join(words), [], 0
    for word in words:
        ends.append((at, at + len(word)))
        at += len(word) + 1
    true: list[tuple[int, int, str]] = []
    for (start, end), tag in zip(ends, tags, strict=True):
        if tag.startswith("B-"):
            true.append((start, end, tag[2:]))
        elif tag.startswith("I-") and true:
            true[-1] = (true[-1][0], end, true[-1][2])
    predicted = [(item["start"], item["end"], str(item["entity_group"])) for item in answer.get("entities", ())]
    both = set(true) & set(predicted)
    return EntitiesView(name, _spans(text, true, both), _spans(text, predicted, both))


def _spans(text: str, entities: Sequence[tuple[int, int, str]], both: set[tuple[int, int, str]]) -> tuple[Span, ...]:
    spans: list[Span] = []
    at = 0
    for start, end, kind in sorted(entities):
        spans += [(text[at:start], "", True), (text[start:end], kind, (start, end, kind) in both)]
        at = end
    spans.append((text[at:], "", True))
    return tuple(span for span in spans if span[0])


def _answer_view(row: Row, answer: Answer, kinds: Mapping[str, Kind], targets: frozenset[str]) -> AnswerView | None:
    """Of targets that are words or numbers; those that are drawn say it themselves."""
    wanted = {name: kind for name, kind in kinds.items() if name in targets}
    if {"boxes", "tags", "mask"} & set(wanted.values()) or not wanted:
        return None
    name, kind = next(iter(wanted.items()))
    if kind == "number":
        values = answer.get("values", {})
        truth = tuple(_short(row[name] if len(wanted) == 1 else f"{name} {row[name]:.4g}") for name in wanted)
        predicted = tuple(
            _short(float(value) if len(wanted) == 1 else f"{name} {value:.4g}") for name, value in values.items()
        )
        return AnswerView(name, truth, predicted or _predicted(answer))
    value = row[name]
    truth = tuple(map(_short, value)) if isinstance(value, list | tuple) else (_short(value),)
    if kind == "labels":
        return AnswerView(name, truth, tuple(map(_short, answer.get("labels", ()))), _scores(answer), several=True)
    if kind == "label":
        return AnswerView(name, truth, _predicted(answer), _scores(answer))
    return AnswerView(name, truth, _predicted(answer), prose=True)


def _scores(answer: Answer) -> tuple[tuple[str, float], ...]:
    told = [(str(item["label"]), float(item["score"])) for item in answer.get("scores", ())]
    return tuple(told[:MOST_SCORES])


def _predicted(answer: Answer) -> tuple[str, ...]:
    """The one label, text or number of an answer; all of it where that cannot be told."""
    plain = [value for value in answer.values() if isinstance(value, str | int | float)]
    if plain:
        return (_short(answer.get("label", plain[0])),)
    return (_short(json.dumps(answer, ensure_ascii=False, default=str)),)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} … and {len(text) - MOST_LETTERS} letters more"
