"""Views of rows follow from the kinds of their columns alone, for unknown tasks too."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import Field
from torch import Tensor, from_numpy

from regraft.contracts import Answer, Batch, Context, Example, Kind, Record, Row, Score, Task
from regraft.contracts.views import (
    AnswerView,
    Box,
    BoxesView,
    ConversationView,
    EntitiesView,
    ImageView,
    MaskView,
    TextView,
)
from regraft.evaluation.row_views import view_parts
from regraft.evaluation.thumbnails import BYTES, Thumbnails
from regraft.media.pixels.mask_overlay import predicted_classes

LABELS = ("ground", "red", "blue")


class Unheard(Task):
    """A task with the columns that a test needs."""

    auto: ClassVar[str] = "AutoModel"
    modality: ClassVar[Literal["text", "image"]] = "text"
    score: ClassVar[Score] = Score("rightness", "max")
    columns: ClassVar[Mapping[str, Kind]] = {}

    kinds: Mapping[str, Any] = Field(default_factory=dict)
    more: tuple[str, ...] = ()

    def input_columns(self) -> Mapping[str, Kind]:
        return self.kinds

    def target_columns(self) -> frozenset[str]:
        return super().target_columns() | set(self.more)

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        return {"labels": {"mask": from_numpy(row["classes"])}}

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        raise NotImplementedError

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        raise NotImplementedError

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        raise NotImplementedError

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        raise NotImplementedError


def shown(kinds: dict[str, Kind], row: Row, answer: Answer, *more: str) -> tuple[Any, ...]:
    processor = SimpleNamespace(decode=lambda ids: " ".join(f"t{number}" for number in ids))
    adapted: Any = SimpleNamespace(task=Unheard(kinds=kinds, more=more), context=Context(processor, LABELS))
    return view_parts(row, answer, Thumbnails(), adapted)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(path)
    return str(path)


def png(pixels: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_text_with_its_label_and_the_likeliest_ones() -> None:
    scores = [{"label": name, "score": score} for name, score in (("red", 0.7), ("blue", 0.2), ("ground", 0.1))]
    text, verdict = shown(
        {"text": "text", "label": "label"},
        {"text": "a lamp", "label": "blue"},
        {"label": "red", "score": 0.7, "scores": scores},
    )
    assert text == TextView("text", "a lamp")
    assert verdict == AnswerView("label", ("blue",), ("red",), (("red", 0.7), ("blue", 0.2), ("ground", 0.1)))


def test_several_labels_are_a_set() -> None:
    _, verdict = shown({"t": "text", "labels": "labels"}, {"t": "a", "labels": ["red", "blue"]}, {"labels": ["red"]})
    assert verdict == AnswerView("labels", ("red", "blue"), ("red",), (), several=True)


def test_numbers_stand_beside_what_was_said_by_name() -> None:
    kinds: dict[str, Kind] = {"text": "text", "joy": "number", "fear": "number"}
    row = {"text": "a", "joy": 1.5, "fear": -2.0}
    _, verdict = shown(kinds, row, {"values": {"joy": 0.25, "fear": 1.0}}, "joy", "fear")
    assert (verdict.truth, verdict.predicted) == (("joy 1.5", "fear -2"), ("joy 0.25", "fear 1"))


def test_a_written_text_stands_beside_all_its_references() -> None:
    kinds: dict[str, Kind] = {"source": "text", "target": "texts"}
    _, verdict = shown(kinds, {"source": "a", "target": ["b", "c"]}, {"translation_text": "d"}, "target")
    assert (verdict.truth, verdict.predicted) == (("b", "c"), ("d",)) and verdict.prose


def test_entities_are_marked_and_those_on_both_sides_are_right() -> None:
    row = {"tokens": ["Ada", "Lovelace", "in", "Rome"], "tags": ["B-name", "I-name", "O", "B-place"]}
    predicted = [{"entity_group": "name", "start": 0, "end": 12}, {"entity_group": "name", "start": 16, "end": 20}]
    (part,) = shown({"tokens": "words", "tags": "tags"}, row, {"entities": predicted})
    assert isinstance(part, EntitiesView)
    assert part.truth == (("Ada Lovelace", "name", True), (" in ", "", True), ("Rome", "place", False))
    assert part.predicted == (("Ada Lovelace", "name", True), (" in ", "", True), ("Rome", "name", False))


def test_answers_are_marked_in_the_parts_of_a_long_text_around_them() -> None:
    text = f"{'a ' * 300}Rome{' b' * 300} Oslo {'c ' * 300}"
    truths = [{"text": name, "start": text.index(name)} for name in ("Rome", "Oslo")]
    answer = {"answer": "Oslo", "score": 0.5, "start": text.index("Oslo"), "end": text.index("Oslo") + 4}
    kinds: dict[str, Kind] = {"question": "text", "context": "text", "answers": "answer-spans"}
    asked, part = shown(kinds, {"question": "where?", "context": text, "answers": truths}, answer)
    assert asked == TextView("question", "where?") and isinstance(part, EntitiesView)
    assert [piece for piece in part.truth if piece[1]] == [("Rome", "answer", False), ("Oslo", "answer", True)]
    assert [piece for piece in part.predicted if piece[1]] == [("Oslo", "answer", True)]
    assert all(len(piece) < 600 for side in (part.truth, part.predicted) for piece, _, _ in side)
    none = {"answer": "", "score": 0.9, "start": 0, "end": 0}
    _, empty = shown(kinds, {"question": "where?", "context": text, "answers": []}, none)
    assert isinstance(empty, EntitiesView) and empty.truth == empty.predicted == (("no answer", "", True),)


def test_boxes_of_both_sides_are_in_pixels_of_the_original(picture: str) -> None:
    box = {"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 50}
    (part,) = shown(
        {"image": "image", "boxes": "boxes", "labels": "labels"},
        {"image": picture, "boxes": [[1.0, 2.0, 3.0, 4.0]], "labels": ["red"]},
        {"objects": [{"label": "blue", "score": 0.5, "box": box}]},
    )
    assert isinstance(part, BoxesView) and part.picture is not None
    assert (part.picture.width, part.picture.height) == (80, 60)
    assert part.truth == (Box("red", 1, 2, 3, 4),) and part.predicted == (Box("blue", 10, 20, 20, 30, 0.5),)


def test_many_boxes_are_counted_by_label() -> None:
    boxes = tuple(Box("red" if number % 3 else "blue", 0, 0, 1, 1, 0.5) for number in range(9))
    part = BoxesView("image", None, boxes, boxes[:2])
    assert part.listed(part.truth) == ("red × 6", "blue × 3")
    assert part.listed(part.predicted) == ("blue 0.500", "red 0.500")


def test_a_mask_is_drawn_beside_the_one_that_was_said(picture: str) -> None:
    true, predicted = np.zeros((60, 80), np.int64), np.zeros((60, 80), np.int64)
    true[:20], predicted[40:] = 1, 2
    kinds: dict[str, Kind] = {"image": "image", "mask": "mask"}
    (part,) = shown(kinds, {"image": picture, "mask": "m.png", "classes": true}, {"map": png(predicted)})
    assert isinstance(part, MaskView) and part.truth and part.predicted and part.truth.uri != part.predicted.uri
    assert [name for name, _ in part.legend] == ["red", "blue"]


def test_masks_by_class_are_put_together() -> None:
    blue = np.zeros((4, 5), np.uint8)
    blue[1:3] = 255
    found = predicted_classes({"segments": [{"label": "blue", "mask": png(blue)}]}, LABELS)
    assert found is not None and found.tolist() == np.where(blue, 2, 0).tolist()


def test_a_picture_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    kinds: dict[str, Kind] = {"image": "image", "label": "label"}
    photo, verdict = shown(kinds, {"image": str(tmp_path / "gone.png"), "label": "red"}, {"label": "blue"})
    assert photo == ImageView("image", None) and verdict.predicted == ("blue",)


def test_a_conversation_and_packed_tokens_are_read() -> None:
    messages = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]
    assert shown({"messages": "messages"}, {"messages": messages}, {}) == (
        ConversationView("messages", (("user", "why"), ("assistant", "so"))),
    )
    packed: dict[str, Kind] = {"ids": "tokens", "counts": "tokens"}
    assert shown(packed, {"ids": [5, 6], "counts": [1, 1]}, {}) == (TextView("ids", "t5 t6"),)


def test_a_long_text_is_cut_and_says_so() -> None:
    (words,) = shown({"text": "text"}, {"text": "a" * 5000}, {})
    assert len(words.text) + words.more == 5000 and words.more > 3000


def test_pictures_stop_where_the_page_would_grow_too_large() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (500, 700, 3), np.uint8))
    thumbnails = Thumbnails(budget=300_000)
    made = [thumbnails.add(noise) for _ in range(20)]
    kept = [picture for picture in made if picture]
    assert 0 < len(kept) < 20 and thumbnails.left_out == 20 - len(kept)
    assert sum(len(picture.uri) for picture in kept) < 300_000 * 1.4 < BYTES
