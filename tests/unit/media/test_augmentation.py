"""Augmentation: determined by one number; boxes and masks move with their pixels; in training only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import Context
from regraft.media.pixels.augmentation import STRENGTHS, VISIBLE, Augmentation, Level, mirrors
from regraft.tasks.image_classification import ImageClassification
from regraft.tasks.object_detection import ObjectDetection
from support.image_bases import tiny_mobilenet
from support.rectangles import tiny_yolos

SIZE = (90, 70)
LEVELS = pytest.mark.parametrize("level", STRENGTHS)


def noise(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def change(level: Level, draw: int, *, mirror: bool = True) -> Augmentation:
    return Augmentation.drawn(level, draw, SIZE, mirror=mirror)


def bytes_of(level: Level, draw: int) -> bytes:
    return change(level, draw).image(noise()).tobytes()


@LEVELS
def test_the_same_draw_gives_the_same_pixels_whatever_torch_and_numpy_hold(level: Level) -> None:
    before = [bytes_of(level, draw) for draw in (0, 7, 2**64 - 1)]
    torch.manual_seed(123)
    np.random.seed(5)
    assert [bytes_of(level, draw) for draw in (0, 7, 2**64 - 1)] == before


@LEVELS
def test_generators_that_dropout_depends_on_are_not_moved(level: Level) -> None:
    torch.manual_seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    bytes_of(level, 11)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]


def test_draws_are_the_same_for_ever() -> None:
    light = change("light", 42)
    assert light.factors == pytest.approx((0.908391, 0.868674, 1.113039), abs=1e-6)


@LEVELS
def test_other_draws_give_other_pixels_of_the_same_size(level: Level) -> None:
    images = [change(level, draw).image(noise()) for draw in range(20)]
    assert {image.size for image in images} == {SIZE}
    assert len({image.tobytes() for image in images}) == 20


@LEVELS
def test_half_of_the_images_are_mirrored_and_none_where_labels_forbid_it(level: Level) -> None:
    flipped = [np.linalg.det(change(level, draw).matrix[:2, :2]) < 0 for draw in range(200)]
    assert 70 < sum(flipped) < 130 if STRENGTHS[level].mirrors else not any(flipped)
    assert not any(np.linalg.det(change(level, draw, mirror=False).matrix[:2, :2]) < 0 for draw in range(50))


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        (("cat", "dog"), True),
        (("turn left", "turn right"), False),
        (("Left-Lung", "heart"), False),
        (("cleft", "bright"), True),
        (tuple("0123456789"), False),
        (("A", "B"), False),
        (("10", "20"), True),
        ((), True),
    ],
)
def test_labels_decide_whether_images_are_mirrored(labels: tuple[str, ...], allowed: bool) -> None:
    assert mirrors(labels) is allowed


def rectangle(box: tuple[int, int, int, int]) -> Image.Image:
    """Return a white rectangle [x, y, width, height] on black."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    left, top, across, down = box
    pixels[top : top + down, left : left + across] = 255
    return Image.fromarray(pixels)


def only_moved(found: Augmentation) -> Augmentation:
    """Return the same movement without changes of colour."""
    return replace(found, factors=(1.0, 1.0, 1.0), operations=(), erased=None)


def extent(seen: np.ndarray[Any, Any]) -> list[float]:
    """Return the box [left, top, right, bottom] around the visible pixels."""
    rows, columns = np.nonzero(seen)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@LEVELS
def test_boxes_follow_their_pixels(level: Level) -> None:
    box = (30, 20, 24, 18)
    for draw in range(60):
        moved = only_moved(change(level, draw))
        # Grey is what lies outside of the image: the rectangle alone is brighter.
        seen = np.asarray(moved.image(rectangle(box)))[..., 0] > 160
        boxes, numbers = moved.boxes([box])
        assert numbers == [0]
        left, top, across, down = boxes[0]
        assert [left, top, left + across, top + down] == pytest.approx(extent(seen), abs=1.6)


@LEVELS
def test_masks_follow_their_pixels_and_say_what_is_no_image(level: Level) -> None:
    box = (30, 20, 24, 18)
    mask = (np.asarray(rectangle(box))[..., 0] > 0).astype(np.int32) * 300
    outside = 0
    for draw in range(40):
        moved = change(level, draw)
        found = moved.mask(mask, -1)
        assert found.dtype == np.int32 and set(np.unique(found)) <= {-1, 0, 300}
        plain = np.asarray(only_moved(moved).image(rectangle(box)))[..., 0]
        clear = (found >= 0) & ((plain < 20) | (plain > 235))
        assert ((plain > 235) == (found == 300))[clear].mean() > 0.995
        outside += int((found == -1).sum())
    assert (outside > 0) == (level != "light")


def test_drawings_keep_their_colours_and_their_paper() -> None:
    assert Augmentation.drawn("affine", 3, SIZE).factors == (1.0, 1.0, 1.0)
    drawing = np.full((SIZE[1], SIZE[0], 3), (250, 240, 9), np.uint8)
    drawing[30:40, 20:50] = 0
    drawing[:4, :20] = 77
    pictures = [np.asarray(change("affine", draw).image(Image.fromarray(drawing))) for draw in range(30)]
    for found in pictures:
        assert found[-1, -1].tolist() == found[-1, 0].tolist() == [250, 240, 9]
        assert 150 < (found[..., 0] < 40).sum() < 600
    assert len({found.tobytes() for found in pictures}) == 30


def test_what_is_painted_over_counts_nowhere() -> None:
    found = next(item for item in (change("strong", draw) for draw in range(100)) if item.erased)
    assert found.erased is not None
    left, top, right, bottom = found.erased
    painted = np.asarray(found.image(noise()))[top:bottom, left:right]
    assert (painted == found.paint).all()
    assert (found.mask(np.ones((SIZE[1], SIZE[0]), np.int32), -1)[top:bottom, left:right] == -1).all()


def test_a_box_that_leaves_the_image_is_cut_and_then_dropped() -> None:
    stays = Augmentation(SIZE, np.eye(3), (1, 1, 1), (), None, (0, 0, 0))
    half, most = np.eye(3), np.eye(3)
    half[0, 2], most[0, 2] = -10, -15
    assert stays.boxes([(0, 5, 20, 10), (50, 50, 5, 5)]) == ([[0, 5, 20, 10], [50, 50, 5, 5]], [0, 1])
    assert replace(stays, matrix=half).boxes([(0, 5, 20, 10), (50, 50, 5, 5)]) == (
        [[0, 5, 10, 10], [40, 50, 5, 5]],
        [0, 1],
    )
    assert replace(stays, matrix=most).boxes([(0, 5, 20, 10), (50, 50, 5, 5)]) == ([[35, 50, 5, 5]], [1])
    assert VISIBLE * 20 > 5


def test_a_box_that_is_painted_over_is_dropped() -> None:
    painted = Augmentation(SIZE, np.eye(3), (1, 1, 1), (), (10, 10, 30, 28), (0, 0, 0))
    assert painted.boxes([(10, 10, 20, 20), (60, 10, 20, 20)])[1] == [1]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    base = locate(str(tiny_mobilenet(tmp_path_factory.mktemp("base"))))
    return Context(load_processor(base, "image"), ("ants", "bees"), BaseLoader(base).config, augment="strong")


def test_a_classifier_sees_changed_images_in_training_only(context: Context, tmp_path: Path) -> None:
    noise().save(tmp_path / "noise.png")
    task, row = ImageClassification(), {"row": 0, "image": str(tmp_path / "noise.png"), "label": "bees"}
    plain = task.encode(row, replace(context, augment="off"), train=True)["pixel_values"]
    assert torch.equal(task.encode({**row, "draw": 1}, context, train=False)["pixel_values"], plain)
    first, again, other = (
        task.encode({**row, "draw": draw}, context, train=True)["pixel_values"] for draw in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, plain) and not torch.equal(first, other)


def test_a_detector_sees_changed_boxes_in_training_only(tmp_path: Path) -> None:
    base = locate(str(tiny_yolos(tmp_path / "base")))
    context = Context(load_processor(base, "image"), ("wall", "door"), BaseLoader(base).config, augment="strong")
    noise().save(tmp_path / "noise.png")
    boxes, labels = [[30.0, 20.0, 24.0, 18.0], [0.0, 0.0, 6.0, 6.0]], ["door", "wall"]
    row = {"row": 0, "image": str(tmp_path / "noise.png"), "boxes": boxes, "labels": labels}
    task = ObjectDetection()
    plain = task.encode(row, replace(context, augment="off"), train=True)["labels"]
    seen = task.encode({**row, "draw": 1}, context, train=False)["labels"]
    assert torch.equal(seen["boxes"], plain["boxes"]) and seen["class_labels"].tolist() == [1, 0]
    counts = set()
    for draw in range(30):
        found = task.encode({**row, "draw": draw}, context, train=True)["labels"]
        kept = Augmentation.drawn("strong", draw, SIZE).boxes(boxes)[1]
        assert found["class_labels"].tolist() == [(1, 0)[number] for number in kept]
        assert len(found["boxes"]) == len(kept)
        counts.add(len(kept))
    assert counts >= {1, 2}
