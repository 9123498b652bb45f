"""Image classification: upright images, the loss of single labels, one shape per batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import Base, locate
from regraft.contracts import Context, Method, Row
from regraft.errors import DataError, Unsupported
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.tasks.image_classification import ImageClassification
from support.image_bases import tiny_mobilenet

LABELS = ("ants", "bees", "wasps")
TASK = ImageClassification()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return locate(str(tiny_mobilenet(tmp_path_factory.mktemp("base"))))


@pytest.fixture(scope="module")
def context(base: Base) -> Context:
    return Context(load_processor(base, "image"), LABELS, BaseLoader(base).config)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Return rows with images of noise, of several sizes and modes."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    found: list[Row] = []
    for number, (mode, size) in enumerate([("RGB", (40, 30)), ("L", (33, 64)), ("RGBA", (50, 50)), ("P", (90, 31))]):
        pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).convert(mode).save(path)
        found.append({"row": number, "image": str(path), "label": LABELS[number % 3]})
    return found


def test_images_of_any_size_and_mode_make_one_batch(rows: list[Row], context: Context) -> None:
    batch = TASK.collate([TASK.encode(row, context, train=True) for row in rows], context)
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0]])
def test_the_loss_is_torchs_mean_however_rows_are_split(weights: list[float] | None, context: Context) -> None:
    weight = None if weights is None else torch.tensor(weights)
    context = Context(context.processor, LABELS, context.config, weight, 0.1)
    logits, labels = torch.randn(20, 3) * 3, torch.randint(3, (20,))
    expected = F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1)
    for cuts in ([20], [1, 19], [5, 0, 15]):
        parts = [
            TASK.loss(SimpleNamespace(logits=some), {"labels": true}, context)
            for some, true in zip(torch.split(logits, cuts), torch.split(labels, cuts), strict=True)
        ]
        assert sum(part[0] for part in parts) / sum(part[1] for part in parts) == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_a_row_alone_is_answered_as_in_a_batch(base: Base, rows: list[Row]) -> None:
    made = adapt(base, Adaptation(task=TASK, method=FeatureExtraction(), labels=LABELS, seed=0))
    examples = [TASK.encode(row, made.context, train=False) for row in rows]

    def asked(some: list[Any]) -> list[Any]:
        batch = TASK.collate(some, made.context)
        with torch.no_grad():
            return TASK.answers(made.forward(batch), batch, made.context)

    for example, there in zip(examples, asked(examples), strict=True):
        here = asked([example])[0]
        assert here["label"] == there["label"]
        assert {item["label"] for item in here["scores"]} == set(LABELS)
        assert here["score"] == pytest.approx(there["score"], abs=1e-5)


def test_a_photo_held_sideways_is_read_as_it_is_seen(tmp_path: Path, context: Context) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    image = Image.fromarray(pixels)
    image.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when it is shown
    image.rotate(90, expand=True).save(tmp_path / "sideways.png", exif=exif)
    here, there = (
        TASK.encode({"row": 0, "image": str(tmp_path / name)}, context, train=False)["pixel_values"]
        for name in ("upright.png", "sideways.png")
    )
    assert torch.equal(here, there)


def test_prototypes_find_the_linear_head_of_a_mobilenet(base: Base, rows: list[Row]) -> None:
    method = Method.parse("prototypes")
    assert isinstance(method, Method)
    made = adapt(base, Adaptation(task=TASK, method=method, labels=LABELS, seed=0))
    batch = TASK.collate([TASK.encode(row, made.context, train=False) for row in rows], made.context)
    features = made.features(batch)
    assert features.shape == (4, made.linear_head().in_features)
    method.solve(made.linear_head(), method.statistics(features, batch["labels"], 3))
    with torch.no_grad():
        assert made.forward(batch).logits.argmax(-1)[1:3].tolist() == [1, 2]


def test_an_unreadable_or_huge_image_is_a_bad_row(
    tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [TASK.check(row) for row in rows] == [None] * 4
    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (10_001, 10_000)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # Pillow's own limit, of which it would warn
    assert "is not readable" in str(TASK.check({"image": str(tmp_path / "text.png")}))
    assert "10001 x 10000 pixels; at most 100 megapixels" in str(TASK.check({"image": str(tmp_path / "huge.png")}))


def test_an_image_that_breaks_off_is_named_when_it_is_decoded(
    tmp_path: Path, rows: list[Row], context: Context
) -> None:
    whole = Path(rows[0]["image"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.png is not readable"):
        TASK.encode({"row": 0, "image": str(tmp_path / "cut.png")}, context, train=True)


def test_images_of_several_shapes_are_refused(context: Context) -> None:
    examples = [{"pixel_values": torch.zeros(3, 4, 5)}, {"pixel_values": torch.zeros(3, 5, 4)}]
    with pytest.raises(Unsupported, match="a batch needs one shape"):
        TASK.collate(examples, context)


def test_rows_without_labels_make_a_batch_without_labels(rows: list[Row], context: Context) -> None:
    row = {"row": 0, "image": rows[0]["image"]}
    assert "labels" not in TASK.collate([TASK.encode(row, context, train=False)], context)


def test_a_label_the_model_does_not_know_is_named(rows: list[Row], context: Context) -> None:
    with pytest.raises(DataError, match="row 0: label 'fly' is written; the model knows: ants, bees, wasps"):
        TASK.encode({**rows[0], "label": "fly"}, context, train=True)
