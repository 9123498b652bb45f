"""Every family of detectors: its loss is transformers' own, it trains, and answers do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForObjectDetection

import regraft
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.load import BaseLoader
from regraft.bases.locate import locate
from regraft.contracts import Batch
from regraft.errors import Unsupported
from regraft.methods.full import Full
from regraft.serving.export import export
from regraft.spec.run import RunSpec
from regraft.tasks.object_detection import ObjectDetection
from regraft.training.session import train_local
from support.detectors import MODELS, deformable_detr, saved
from support.rectangles import CLASSES, rectangles

FAMILIES = (*MODELS, "yolos")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("detectors")
    rectangles(made / "train", images=6, seed=1)
    for family in FAMILIES:
        saved(family, made / family)
    return made


def truth(counts: Sequence[int]) -> Batch:
    generator = torch.Generator().manual_seed(4)
    labels = [
        {
            "size": torch.tensor([64, 64]),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.3,
            "class_labels": torch.randint(3, (count,), generator=generator),
        }
        for count in counts
    ]
    pixels = torch.randn(len(labels), 3, 64, 64, generator=generator)
    return {"pixel_values": pixels, "labels": labels}


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        *((family, (3,)) for family in FAMILIES),
        # Of several images DETR's and YOLOS's class term is normalised within each, which theirs is not.
        *((family, (3, 1, 2)) for family in FAMILIES if family not in ("detr", "yolos")),
    ],
)
def test_the_loss_is_the_models_own(folder: Path, family: str, counts: tuple[int, ...]) -> None:
    made = adapt(
        locate(str(folder / family)), Adaptation(task=ObjectDetection(), method=Full(), labels=CLASSES, seed=0)
    )
    batch = truth(counts)
    with torch.no_grad():
        total, weight = made.task.loss(made.forward(batch), batch, made.context)
        theirs = made.model(**batch).loss
    assert (total / weight).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_weight_gets_a_gradient(folder: Path, family: str) -> None:
    """DDP refuses a step in which a trained weight gets no gradient."""
    made = adapt(
        locate(str(folder / family)), Adaptation(task=ObjectDetection(), method=Full(), labels=CLASSES, seed=0)
    )
    made.train_mode()
    batch = truth((2, 0))
    total, weight = made.task.loss(made.forward(batch), batch, made.context)
    torch.autograd.backward(total / weight)
    assert total.isfinite()
    assert [name for name, value in made.model.named_parameters() if value.requires_grad and value.grad is None] == []


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("detr", "full"),
        *(pytest.param(family, "full", marks=pytest.mark.slow) for family in FAMILIES if family != "detr"),
        ("rt_detr", {"type": "freeze", "depth": "all"}),
        ("rt_detr", "lora"),
        *(pytest.param(one, "lora", marks=pytest.mark.slow) for one in ("rt_detr_v2", "detr", "deformable_detr")),
    ],
)
def test_a_run_is_saved_exported_and_answers_alike_alone_and_in_company(
    folder: Path, tmp_path: Path, family: str, method: Any
) -> None:
    rows = str(folder / "train" / "annotations.json")
    spec = RunSpec.resolve(
        {
            "name": "tiny",
            "base": str(folder / family),
            "task": {"type": "object-detection", "threshold": 0.0},
            "method": method,
            "data": {"train": rows, "eval": rows},
            "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3},
            "compute": {"workers": 0, "cpus": 1},
            "store": str(tmp_path / "store"),
        }
    )
    outcome = train_local(spec)
    assert 0 <= outcome.metrics["map"] <= 1
    images = [{"image": str(folder / "train" / f"{number:05d}.png")} for number in range(2)]
    Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 20).save(tmp_path / "other.png")
    images.append({"image": str(tmp_path / "other.png")})
    first, second = (regraft.load("tiny", store=spec.store) for _ in range(2))
    together = first.predict(images)
    assert all(len(answer["objects"]) > 1 for answer in together)
    for row, answer in zip(images, together, strict=True):
        [alone] = second.predict([row])
        assert [found["label"] for found in alone["objects"]] == [found["label"] for found in answer["objects"]]
        scores = [[found["score"] for found in one["objects"]] for one in (alone, answer)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)
        assert set(answer["objects"][0]["box"]) == {"xmin", "ymin", "xmax", "ymax"}
        assert 0 <= answer["objects"][0]["box"]["xmin"] <= answer["objects"][0]["box"]["xmax"] <= 90
    out = export(spec.store, "tiny", tmp_path / "exported")
    model = AutoModelForObjectDetection.from_pretrained(out.folder).eval()
    assert model.config.id2label == dict(enumerate(sorted(CLASSES)))
    pixels = truth((1,))["pixel_values"]
    with torch.no_grad():
        theirs, ours = model(pixel_values=pixels), first.adapted.model(pixel_values=pixels)
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.pred_boxes, ours.pred_boxes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["rt_detr", "rt_detr_v2"])
def test_labels_of_another_number_leave_what_the_base_knows_of_boxes(tmp_path: Path, family: str) -> None:
    model = MODELS[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    before = dict(model.named_parameters())
    after = dict(ObjectDetection().build(BaseLoader(locate(str(tmp_path))), CLASSES).named_parameters())
    drawn = {name for name, value in after.items() if not torch.equal(value, before[name])}
    scores = ("enc_score_head", "decoder.class_embed.0", "decoder.class_embed.1")
    assert drawn == {f"model.{name}.{kind}" for name in scores for kind in ("weight", "bias")}


@pytest.mark.parametrize("family", ["rt_detr", "deformable_detr"])
def test_sigmoid_families_may_give_one_box_two_labels(folder: Path, family: str) -> None:
    made = adapt(
        locate(str(folder / family)), Adaptation(task=ObjectDetection(), method=Full(), labels=CLASSES, seed=0)
    )
    batch = truth((2,))
    with torch.no_grad():
        output = made.forward(batch)
        output.logits = torch.full_like(output.logits, -9.0)
        output.logits[0, 4, 1:] = torch.tensor([3.0, 2.0])
        [answer] = made.task.answers(output, batch, made.context)
    assert [found["label"] for found in answer["objects"]] == ["green", "blue"]
    assert answer["objects"][0]["box"] == answer["objects"][1]["box"]
    assert answer["objects"][0]["score"] == pytest.approx(torch.tensor(3.0).sigmoid().item())


def test_rt_detr_takes_multiples_of_its_largest_stride(folder: Path) -> None:
    task = ObjectDetection(size=(96, 80))
    with pytest.raises(Unsupported, match=r"96 x 80 pixels .* multiples of 32: write task.size, such as \[96, 64\]"):
        adapt(locate(str(folder / "rt_detr")), Adaptation(task=task, method=Full(), labels=CLASSES, seed=0))


@pytest.mark.parametrize("field", ["with_box_refine", "two_stage"])
def test_a_deformable_detr_with_untold_inner_layers_is_refused(tmp_path: Path, field: str) -> None:
    fields = {"with_box_refine": True, field: True}
    deformable_detr(**fields).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="box refinement or two stages"):
        ObjectDetection().build(BaseLoader(locate(str(tmp_path))), CLASSES)
