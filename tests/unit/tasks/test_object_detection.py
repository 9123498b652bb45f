"""Object detection: the loss does not depend on the split, a perfect model scores 1, bad rows are named."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import Context, Example, Row
from regraft.errors import DataError, Unsupported
from regraft.tasks.object_detection import ObjectDetection, relative
from regraft.tasks.outputs.detr import LayerOutput, box_loss, matched
from support import rectangles

TASK = ObjectDetection()
QUERIES = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rectangles.tiny_yolos(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def loader(folder: Path) -> BaseLoader:
    return BaseLoader(locate(str(folder)))


@pytest.fixture(scope="module")
def context(folder: Path, loader: BaseLoader) -> Context:
    return Context(load_processor(locate(str(folder)), "image"), rectangles.CLASSES, loader.config)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    found: list[Row] = list(rectangles.rows(rectangles.rectangles(tmp_path_factory.mktemp("data"), images=12, seed=3)))
    found[4] = {**found[4], "boxes": [], "labels": []}
    return found


@pytest.fixture(scope="module")
def examples(rows: list[Row], context: Context) -> list[Example]:
    return [TASK.encode(row, context, train=True) for row in rows]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 20)).save(path)
    return path


def guess(images: int, seed: int = 0) -> Any:
    """Return the output of a model with random logits."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(images, QUERIES, 4, generator=generator) * 0.5 + 0.25
    logits = torch.randn(images, QUERIES, len(rectangles.CLASSES) + 1, generator=generator)
    return SimpleNamespace(logits=logits, pred_boxes=boxes)


def perfect(batch: dict[str, Any]) -> Any:
    """Return an output that predicts the targets with certainty; further queries predict `no object`."""
    answer = guess(len(batch["labels"]))
    answer.logits[:] = torch.tensor([0.0, 0.0, 0.0, 50.0])
    for image, target in enumerate(batch["labels"]):
        for query, (box, label) in enumerate(zip(target["boxes"], target["class_labels"], strict=True)):
            answer.pred_boxes[image, query] = box
            answer.logits[image, query] = torch.eye(4)[label] * 50
    return answer


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def cut(answer: Any, start: int, end: int) -> Any:
    return SimpleNamespace(logits=answer.logits[start:end], pred_boxes=answer.pred_boxes[start:end])


def test_the_loss_does_not_depend_on_the_split(examples: list[Example], context: Context) -> None:
    answer = guess(len(examples))
    total, weight = TASK.loss(answer, TASK.collate(examples, context), context)
    assert weight == sum(max(1, len(example["labels"]["boxes"])) for example in examples)
    for cuts in ([0, 1, 12], [0, 4, 5, 12], list(range(13))):
        parts = [
            TASK.loss(cut(answer, start, end), TASK.collate(examples[start:end], context), context)
            for start, end in pairwise(cuts)
        ]
        assert sum(part[0].item() for part in parts) == pytest.approx(total.item(), rel=1e-6)
        assert sum(part[1].item() for part in parts) == weight


def test_box_terms_are_those_of_detr(examples: list[Example], context: Context) -> None:
    some = [example for example in examples if len(example["labels"]["boxes"])]
    batch, answer = TASK.collate(some, context), guess(len(some))
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    outputs = {"logits": answer.logits, "pred_boxes": answer.pred_boxes}
    theirs = ImageLoss(matcher, 3, 0.1, ["boxes"])(outputs, batch["labels"])
    total, weight = TASK.loss(answer, batch, context)
    boxless, _ = ObjectDetection(l1_weight=5, giou_weight=2).loss(answer, batch, context)
    assert total == boxless
    layer = LayerOutput(answer.logits, answer.pred_boxes)
    ours = box_loss(layer, matched(matcher, layer, batch["labels"]), l1=5, giou=2) / weight
    assert ours.item() == pytest.approx((5 * theirs["loss_bbox"] + 2 * theirs["loss_giou"]).item(), rel=1e-5)


def test_one_images_class_term_is_that_of_detr(examples: list[Example], context: Context) -> None:
    batch, answer = TASK.collate(examples[:1], context), guess(1)
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    theirs = ImageLoss(matcher, 3, 0.1, ["labels", "boxes"])(
        {"logits": answer.logits, "pred_boxes": answer.pred_boxes}, batch["labels"]
    )
    total, weight = TASK.loss(answer, batch, context)
    expected = theirs["loss_ce"] + 5 * theirs["loss_bbox"] + 2 * theirs["loss_giou"]
    assert (total / weight).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_perfect_model_has_no_loss_and_a_map_of_one(
    examples: list[Example], context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    batch = TASK.collate(examples, context)
    total, _ = TASK.loss(perfect(batch), batch, context)
    assert total.item() == pytest.approx(0, abs=1e-4)
    metrics = TASK.metrics(TASK.records(perfect(batch), batch, context), context)
    assert metrics == {"map": pytest.approx(1), "map50": pytest.approx(1), "map75": pytest.approx(1)}
    assert capfd.readouterr().out == ""


def test_a_model_that_guesses_scores_little(examples: list[Example], context: Context) -> None:
    batch = TASK.collate(examples, context)
    assert TASK.metrics(TASK.records(guess(12), batch, context), context)["map50"] < 0.3


def test_half_of_the_boxes_found_is_half_a_score(context: Context) -> None:
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, dtype=int)}
    truth = {"true_boxes": np.array([[1.0, 1.0, 9.0, 9.0]]), "true_labels": np.array([0])}
    found = {"boxes": truth["true_boxes"], "scores": np.array([0.9]), "labels": np.array([0])}
    metrics = TASK.metrics([{**nothing, **truth}, {**found, **truth}], context)
    assert metrics["map50"] == pytest.approx(0.5, abs=0.01)
    assert TASK.metrics([{**nothing, **truth}], context)["map50"] == 0
    assert TASK.metrics([{**nothing, "true_boxes": np.zeros((0, 4)), "true_labels": np.zeros(0)}], context)["map"] == 0


def test_images_without_boxes_have_a_loss_and_a_gradient(examples: list[Example], context: Context) -> None:
    answer = guess(1)
    answer.logits.requires_grad_()
    total, weight = TASK.loss(answer, TASK.collate([examples[4]], context), context)
    torch.autograd.backward(total)
    assert weight == 1 and total > 0 and answer.logits.grad.abs().sum() > 0


def test_a_diverged_model_has_a_loss_that_is_not_a_number(examples: list[Example], context: Context) -> None:
    answer = guess(12)
    answer.pred_boxes[3, 2] = torch.nan
    total, weight = TASK.loss(answer, TASK.collate(examples, context), context)
    assert total.isnan() and weight > 0


def test_half_precision_outputs_are_matched(examples: list[Example], context: Context) -> None:
    answer = guess(12)
    half = SimpleNamespace(logits=answer.logits.bfloat16(), pred_boxes=answer.pred_boxes.bfloat16())
    total, _ = TASK.loss(half, TASK.collate(examples, context), context)
    assert total.dtype == torch.float32 and torch.isfinite(total)


def test_rows_without_boxes_can_be_answered(rows: list[Row], loader: BaseLoader, context: Context) -> None:
    bare = [{"image": row["image"]} for row in rows[:2]]
    batch = TASK.collate([TASK.encode(row, context, train=False) for row in bare], context)
    assert all(set(target) == {"size"} for target in batch["labels"])
    model = TASK.build(loader, rectangles.CLASSES).eval()
    with torch.no_grad():
        output = model(pixel_values=batch["pixel_values"])
    [answer, _] = ObjectDetection(threshold=0).answers(output, batch, context)
    assert len(answer["objects"]) == output.logits.shape[1]
    json.dumps(answer)


def test_answers_are_the_objects_above_the_threshold_best_first(examples: list[Example], context: Context) -> None:
    batch = TASK.collate(examples, context)
    for answer, example in zip(TASK.answers(perfect(batch), batch, context), examples, strict=True):
        assert len(answer["objects"]) == len(example["labels"]["boxes"])
    for answer in ObjectDetection(threshold=0.3).answers(guess(12), batch, context):
        scores = [found["score"] for found in answer["objects"]]
        assert scores == sorted(scores, reverse=True) and min(scores, default=1) >= 0.3


def test_answered_boxes_are_pixels_of_the_image_as_it_was_given(context: Context, picture: Path) -> None:
    row: Row = {"row": 0, "image": str(picture), "boxes": [[10, 5, 20, 10]], "labels": ["green"]}
    batch = TASK.collate([TASK.encode(row, context, train=False)], context)
    [answer] = TASK.answers(perfect(batch), batch, context)
    [found] = answer["objects"]
    assert found["label"] == "green" and found["score"] == pytest.approx(1)
    assert found["box"] == {"xmin": 10, "ymin": 5, "xmax": 30, "ymax": 15}


def test_boxes_become_shares_of_the_image_and_are_cut_at_its_border() -> None:
    boxes = relative([[10, 5, 20, 10], [-1, 0, 11, 20], [30, 0, 11, 20]], 40, 20)
    expected = [[0.5, 0.5, 0.5, 0.5], [0.125, 0.5, 0.25, 1.0], [0.875, 0.5, 0.25, 1.0]]
    torch.testing.assert_close(boxes, torch.tensor(expected))
    assert relative([], 40, 20).shape == (0, 4)


def test_a_photo_taken_sideways_is_read_as_it_is_seen(tmp_path: Path, context: Context) -> None:
    path = tmp_path / "sideways.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    row: Row = {"row": 0, "image": str(path), "boxes": [[0, 30, 20, 10]], "labels": ["red"]}
    assert TASK.check(row) is None
    assert TASK.encode(row, context, train=False)["labels"]["size"].tolist() == [40, 20]


def test_every_image_gets_the_size_that_is_asked_for(picture: Path, context: Context, rows: list[Row]) -> None:
    mixed: list[Row] = [rows[0], {"image": str(picture)}]
    for task, side in ((TASK, (64, 64)), (ObjectDetection(size=(32, 48)), (32, 48))):
        pixels = task.collate([task.encode(row, context, train=False) for row in mixed], context)["pixel_values"]
        assert pixels.shape == (2, 3, *side)


def test_models_that_take_a_mask_get_padding_and_mask(picture: Path, rows: list[Row], context: Context) -> None:
    masked = Context(context.processor, context.labels, DetrConfig())
    batch = TASK.collate(
        [{"pixel_values": torch.ones(3, 8, 4), "labels": {}}, {"pixel_values": torch.ones(3, 6, 6), "labels": {}}],
        masked,
    )
    assert batch["pixel_values"].shape == (2, 3, 8, 6)
    assert torch.equal(batch["pixel_values"][:, 0].long(), batch["pixel_mask"])
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [32, 36]
    assert "pixel_mask" not in TASK.collate([{"pixel_values": torch.ones(3, 8, 4), "labels": {}}], context)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[0, 0, 5, 5]], ["red", "red"], "1 boxes and 2 labels"),
        ([[0, 0, 5, 5]], None, "1 boxes and 0 labels"),
        ([[0, 0, 5, 5], [3, 3, 0, 5]], ["red", "red"], "box 1 is [3, 3, 0, 5] and has no area"),
        ([[3, 3, 5, -1]], ["red"], "has no area"),
        ([[30, 0, 15, 5]], ["red"], "box 0 is [30, 0, 15, 5] and lies outside of its image of 40 x 20 pixels"),
        ([[0, -9, 5, 12]], ["red"], "lies outside"),
        ([[40, 0, 1, 5]], ["red"], "lies outside"),
        ([[0, 0, float("nan"), 5]], ["red"], "not finite"),
        ([[0, 0, 5]], ["red"], "has 3 numbers"),
    ],
)
def test_a_dirty_box_is_named(picture: Path, boxes: Any, labels: Any, message: str) -> None:
    assert message in str(TASK.check({"image": str(picture), "boxes": boxes, "labels": labels}))


def test_clean_rows_pass(picture: Path, rows: list[Row]) -> None:
    assert [TASK.check(row) for row in rows] == [None] * len(rows)
    assert TASK.check({"image": str(picture)}) is None
    assert TASK.check({"image": str(picture), "boxes": [[30.5, 0, 10, 20.5]], "labels": ["red"]}) is None


def test_an_unreadable_image_is_named(tmp_path: Path, context: Context) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    assert "broken.png is not readable" in str(TASK.check({"image": str(path)}))
    assert "gone.png is not readable" in str(TASK.check({"image": str(tmp_path / "gone.png")}))
    rectangles.rectangles(tmp_path, images=1, seed=0)
    whole = (tmp_path / "00000.png").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "broken.png is not readable" in str(TASK.check({"image": str(path)}))
    with pytest.raises(DataError, match=r"broken.png is not readable"):
        TASK.encode({"image": str(path)}, context, train=False)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_500, 20_000])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "huge.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"never read"))
    assert "at most 100 megapixels are allowed" in str(TASK.check({"image": str(path)}))


def test_a_label_the_model_does_not_know_is_named(picture: Path, context: Context) -> None:
    row: Row = {"row": 5, "image": str(picture), "boxes": [[0, 0, 5, 5]], "labels": ["pink"]}
    with pytest.raises(DataError, match="row 5: label 'pink' is written; the model knows: red, green, blue"):
        TASK.encode(row, context, train=True)


def test_a_base_of_another_kind_is_refused() -> None:
    class Other:
        config = SimpleNamespace(model_type="d_fine")
        pooling: str | None = None
        pooling_problem = ""

        def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> torch.nn.Module:
            raise AssertionError("nothing may be loaded")

    with pytest.raises(Unsupported, match="d_fine is written; allowed are deformable_detr, detr, rt_detr, rt_detr_v2"):
        TASK.build(Other(), ("red",))


def test_one_step_moves_the_loss_down(loader: BaseLoader, examples: list[Example], context: Context) -> None:
    torch.manual_seed(0)
    model, batch = TASK.build(loader, rectangles.CLASSES), TASK.collate(examples, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[Tensor] = []
    for _ in range(8):
        total, weight = TASK.loss(model(pixel_values=batch["pixel_values"]), batch, context)
        losses.append((total / weight).detach())
        optimizer.zero_grad()
        torch.autograd.backward(total / weight)
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
