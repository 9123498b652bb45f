"""Depth estimation: meaning of stored numbers, pixels that do not count, losses and errors by hand, and answers."""

from __future__ import annotations

import base64
import io
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import delta_tensors
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.columns.distances import DistancesColumn
from regraft.contracts import Context, Method, Row, column_of
from regraft.contracts.views import ShownRow
from regraft.errors import DataError
from regraft.media.pixels.depth_maps import depth_png, depths_of_png, same_depths, stored_depths
from regraft.tasks.depth_estimation import DepthEstimation
from support.depth_models import SIDE, scene, tiny_dpt
from unit.columns.test_conformance import Drawn

TASK = DepthEstimation()
RELATIVE = DepthEstimation(kind="relative")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    base = locate(str(tiny_dpt(tmp_path_factory.mktemp("dpt"))))
    return Context(load_processor(base, "image"), (), BaseLoader(base).config)


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def picture(values: Any, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def row_of(depth: bytes, size: tuple[int, int] = (2, 3)) -> Row:
    """Return a row whose image has that height and width."""
    return {"row": 0, "image": picture(np.zeros((*size, 3), np.uint8)), "depth": depth, "draw": 7}


def depth_of(task: DepthEstimation, depth: bytes, context: Context) -> list[list[float]]:
    found: list[list[float]] = task.encode(row_of(depth), context, train=False)["labels"]["depth"].tolist()
    return found


MILLIMETRES = np.array([[500, 0, 2000], [4000, 65535, 1000]], np.uint16)
METRES = np.array([[0.5, np.nan, 2.0], [4.0, -1.0, np.inf]])


@pytest.mark.parametrize(
    ("fields", "stored", "wanted"),
    [
        ({}, picture(MILLIMETRES), [[0.5, 0, 2], [4, 65.535, 1]]),
        ({"ignore": 65535}, picture(MILLIMETRES), [[0.5, 0, 2], [4, 0, 1]]),
        ({"scale": 0.002, "max_depth": 5}, picture(MILLIMETRES), [[1, 0, 4], [0, 0, 2]]),
        ({"min_depth": 1, "max_depth": 10}, npy(MILLIMETRES.astype(">i4")), [[0, 0, 2], [4, 0, 1]]),
        ({}, npy(np.asfortranarray(METRES)), [[0.5, 0, 2], [4, 0, 0]]),
        ({}, npy(METRES[None, :, :, None].astype(np.float16)), [[0.5, 0, 2], [4, 0, 0]]),
        ({}, picture(METRES.astype(np.float32), "TIFF"), [[0.5, 0, 2], [4, 0, 0]]),
        ({"maps": "inverse"}, npy(METRES), [[2, 0, 0.5], [0.25, 0, 0]]),
    ],
)
def test_stored_numbers_mean_what_the_fields_say(fields: Any, stored: bytes, wanted: Any, context: Context) -> None:
    task = DepthEstimation(**fields)
    assert task.check(row_of(stored)) is None
    assert np.allclose(depth_of(task, stored, context), wanted)


@pytest.mark.parametrize(
    ("fields", "stored", "message"),
    [
        ({}, picture(np.ones((2, 4), np.uint16)), r"has 4 x 2 pixels, and its image 3 x 2: save the depth map"),
        ({}, npy(np.ones((3, 2))), r"has 2 x 3 pixels, and its image 3 x 2"),
        ({}, npy(np.zeros((2, 3))), r"has no valid pixel: its values are 0 to 0, and valid are numbers above 0"),
        ({}, npy(np.full((2, 3), np.nan)), r"has no valid pixel: no value is a number"),
        ({"max_depth": 3}, npy(np.full((2, 3), 9.0)), r"no valid pixel: its values are 9 to 9.*task\.max_depth"),
        ({}, picture(np.full((2, 3), 9, np.uint8), "JPEG"), "is a JPEG, whose compression changes distances"),
        ({}, picture(np.full((2, 3, 3), 9, np.uint8)), "is a picture of mode RGB; a depth map holds one number"),
        ({}, npy(np.ones((2, 3), complex)), "holds values of type complex128"),
        ({}, npy(np.ones((2, 3, 4))), r"holds an array of shape \(2, 3, 4\)"),
        ({}, npy(np.ones((2, 3)))[:-9], "is cut short: 39 bytes of 48 are there"),
        ({}, b"\x93NUMPY\x01\x00garbage", "whose header cannot be read"),
    ],
)
def test_a_depth_map_that_does_not_fit_is_a_bad_row(fields: Any, stored: bytes, message: str) -> None:
    assert re.search(message, str(DepthEstimation(**fields).check(row_of(stored))))


def test_a_header_that_claims_a_huge_array_allocates_nothing() -> None:
    header = npy(np.ones((2, 3))).replace(b"(2, 3), }       ", b"(999999, 999), }")
    assert "at most 100 megapixels" in str(TASK.check(row_of(header)))


def npy_file(header: bytes, content: bytes = b"\0" * 64) -> bytes:
    """Return an array file with a header that NumPy would not write."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), \n",
        b"-" * 9000 + b"1\n",
        b"(" * 3000 + b")" * 3000,
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}\n",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': 16}\n",
    ],
)
def test_a_damaged_header_is_a_bad_row(header: bytes) -> None:
    with pytest.raises(DataError, match="header cannot be read"):
        stored_depths(npy_file(header))
    assert "header cannot be read" in DistancesColumn().problem(npy_file(header))


def test_a_picture_of_16_bits_is_made_in_strips() -> None:
    values = np.random.default_rng(0).normal(3, 1, (1500, 1000)).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    tracemalloc.start()
    coded, least, most = depth_png(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    levels = np.rint((values.astype(np.float64) - low) * (65535 / (high - low))).astype(np.uint16)
    assert (least, most) == (low, high)
    assert np.array_equal(stored_depths(base64.b64decode(coded)), levels)
    assert peak < 14 * values.size, "levels, the file and its text, and one strip"


def test_an_array_of_objects_is_refused_unread() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[{}, 1]], dtype=object), allow_pickle=True)
    assert "holds values of type object" in str(TASK.check(row_of(file.getvalue(), (1, 2))))


def test_fields_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(ValidationError, match="the least comes first"):
        DepthEstimation(min_depth=3, max_depth=2)


def batch_of(task: DepthEstimation, depth: NDArray[Any], context: Context, *, train: bool) -> Any:
    pixels, _ = scene(3)
    row = {"row": 0, "image": picture(pixels), "depth": npy(depth), "draw": 7}
    return task.collate([task.encode(row, context, train=train)], context)


@pytest.mark.parametrize("task", [TASK, RELATIVE], ids=["metric", "relative"])
@pytest.mark.parametrize("augment", ["off", "strong"])
def test_invalid_pixels_change_nothing(task: DepthEstimation, augment: Any, context: Context) -> None:
    """Whatever stands in them, losses, gradients and errors have the same bits, and they have no gradient."""
    depth = scene(3)[1].astype(np.float64) / 1000
    hole = np.random.default_rng(0).random(depth.shape) < 0.3
    found: list[Any] = []
    for filler in (0.0, -5.0, np.nan, np.inf):
        batch = batch_of(
            task, np.where(hole, filler, depth), Context(context.processor, (), augment=augment), train=True
        )
        predicted = torch.rand((1, 20, 24), generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = SimpleNamespace(predicted_depth=predicted)
        total, weight = task.loss(output, batch, context)
        (gradient,) = torch.autograd.grad(total / weight, predicted)
        measured = batch_of(task, np.where(hole, filler, depth), context, train=False)
        errors = task.metrics(task.records(output, measured, context), context)
        found.append((total.item(), gradient, errors))
    for other in found[1:]:
        assert other[0] == found[0][0] and torch.equal(other[1], found[0][1]) and other[2] == found[0][2]
    valid = batch["labels"][0]["depth"] > 0
    full = torch.rand((1, *valid.shape), generator=torch.Generator().manual_seed(2))
    wild = full.masked_fill(~valid, float("nan"))
    values = [task.loss(SimpleNamespace(predicted_depth=one), batch, context)[0].item() for one in (full, wild)]
    assert values[0] == values[1], "what the model says there does not matter, not even NaN"


def test_scale_and_shift_of_inverse_depth_are_free_where_it_is_relative(context: Context) -> None:
    depth = scene(3)[1].astype(np.float64) / 1000
    batch = batch_of(RELATIVE, depth, context, train=False)
    exact = torch.from_numpy(1 / depth).float()[None]
    for predicted in (exact, 7 * exact + 3):
        output = SimpleNamespace(predicted_depth=predicted)
        assert RELATIVE.loss(output, batch, context)[0].item() < 1e-4
        found = RELATIVE.metrics(RELATIVE.records(output, batch, context), context)
        assert found["abs_rel"] < 1e-4 and found["delta1"] == 1
    upside_down = SimpleNamespace(predicted_depth=-exact)
    assert RELATIVE.loss(upside_down, batch, context)[0].item() > 1, "near and far are not free"


def test_errors_are_those_of_their_definitions(context: Context) -> None:
    true, predicted = np.array([[1.0, 2.0, 4.0], [0.0, 8.0, 1.0]]), torch.tensor([[[1.0, 3.0, 4.4], [9.0, 2.0, 1.3]]])
    batch = TASK.collate([TASK.encode(row_of(npy(true)), context, train=False)], context)
    output = SimpleNamespace(predicted_depth=predicted)
    found = TASK.metrics(TASK.records(output, batch, context), context)
    assert found["abs_rel"] == pytest.approx((0 + 0.5 + 0.1 + 0.75 + 0.3) / 5, rel=1e-5)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 0.16 + 36 + 0.09) / 5), rel=1e-5)
    assert found["delta1"] == pytest.approx(2 / 5)
    ratios = np.log(np.array([1, 1.5, 1.1, 0.25, 1.3]))
    total, weight = TASK.loss(output, batch, context)
    assert (total / weight).item() == pytest.approx((ratios**2).mean() - 0.5 * ratios.mean() ** 2, rel=1e-5)
    assert found["loss"] == pytest.approx((total / weight).item())
    (table,) = TASK.findings(TASK.records(output, batch, context), context).tables
    assert sum(int(str(row[1])) for row in table.rows) == 5


def test_a_prediction_of_nothing_has_a_finite_loss_that_pushes_away(context: Context) -> None:
    batch = batch_of(TASK, scene(3)[1] / 1000, context, train=True)
    predicted = torch.full((1, SIDE, SIDE), -1.0, requires_grad=True)
    total, _ = TASK.loss(SimpleNamespace(predicted_depth=predicted), batch, context)
    (gradient,) = torch.autograd.grad(total, predicted)
    assert total.isfinite() and (gradient.sum() < 0)


def test_a_few_points_of_a_laser_are_not_lost_in_training(context: Context) -> None:
    depth = np.zeros((400, 600))
    depth[123, 457] = 3.0
    row = {"row": 0, "image": picture(np.zeros((400, 600, 3), np.uint8)), "depth": npy(depth), "draw": 7}
    assert TASK.encode(row, context, train=True)["labels"]["depth"].count_nonzero() == 1


def test_depth_moves_with_its_image(context: Context) -> None:
    depth = scene(3)[1]
    strong = Context(context.processor, (), augment="strong")
    row = {"row": 0, "image": picture(np.repeat((depth // 20)[..., None], 3, 2).astype(np.uint8)), "draw": 7}
    found = TASK.encode({**row, "depth": npy(depth)}, strong, train=True)
    again = TASK.encode({**row, "depth": npy(depth)}, strong, train=False)
    assert found["labels"]["depth"].shape == (SIDE, SIDE) and again["labels"]["depth"].shape == depth.shape
    moved = found["labels"]["depth"]
    assert not torch.equal(moved, TASK.encode({**row, "depth": npy(depth)}, context, train=True)["labels"]["depth"])
    known = np.round(depth * 0.001, 6)
    assert np.isin(np.round(moved.double().numpy(), 6), [0, *known.ravel()]).all(), "no depth is mixed"


def test_an_answer_is_a_picture_of_16_bits_with_its_range(context: Context) -> None:
    batch = {"labels": [{"size": torch.tensor([2, 3])}]}
    output = SimpleNamespace(predicted_depth=torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]))
    (answer,) = TASK.answers(output, batch, context)
    image = Image.open(io.BytesIO(base64.b64decode(answer["depth"])))
    assert (image.mode, image.size, answer["range"], answer["kind"]) == ("I;16", (3, 2), [1.0, 6.0], "metric")
    assert np.allclose(depths_of_png(answer["depth"], 1.0, 6.0), [[1, 2, 3], [4, 5, 6]], atol=1e-4)
    assert depth_png(np.full((2, 2), 3.0))[1:] == (3.0, 3.0), "a flat map has one level"


def test_maps_that_differ_by_rounding_are_the_same_and_no_others() -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    one, other, far = (depth_png(values + shift)[0] for shift in (0, np.eye(3, 4) * 1e-6, np.eye(3, 4) * 1e-2))
    assert same_depths(one, other) and not same_depths(one, far) and not same_depths(one, "text")
    classes = [base64.b64encode(picture(np.array([[number]], np.uint8))).decode() for number in (1, 2)]
    assert not same_depths(*classes), "numbers of classes are no measures"


@pytest.mark.parametrize("task", [TASK, RELATIVE], ids=["metric", "relative"])
def test_a_report_draws_the_true_depth_beside_the_predicted_one(task: DepthEstimation, context: Context) -> None:
    row = {**row_of(picture(MILLIMETRES)), "row": 4}
    picture_of, low, high = depth_png(np.array([[0.5, 1, 2], [4, 3, 1]]))
    answer = {"depth": picture_of, "range": [low, high], "kind": task.kind}
    kinds = task.input_columns()
    shown = drawn(task, row, answer, kinds, context)
    assert shown.truth is not None and shown.predicted is not None
    assert [name for name, _ in shown.legend][:2] == (["0.5", "65.54"] if task.kind == "metric" else ["near", "far"])


def drawn(task: DepthEstimation, row: Row, answer: Any, kinds: Any, context: Context) -> Any:
    shown = ShownRow(row, answer, kinds, ("depth",), (), None, lambda: task.encode(row, context, train=False), Drawn())
    return column_of("distances").drawn_on("image", "depth", shown)


def test_a_network_that_is_its_own_base_has_blocks_and_a_head(tmp_path: Path) -> None:
    """Depth Anything has no bare base in transformers: its backbone is the trunk, neck and head are the task's."""
    both = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2}
    backbone = hf.Dinov2Config(
        **both, image_size=28, patch_size=14, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    sizes = {"neck_hidden_sizes": [4, 4, 6, 6], "fusion_hidden_size": 8, "head_hidden_size": 4, "patch_size": 14}
    config = hf.DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=8, **sizes)
    tiny_dpt(tmp_path)
    hf.DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    how = Method.parse("feature-extraction")
    assert isinstance(how, Method)
    made = adapt(locate(str(tmp_path)), Adaptation(task=TASK, method=how, labels=(), seed=1))
    assert len(made.anatomy.blocks) == 4 and made.anatomy.reason == ""
    names = set(delta_tensors(made))
    assert names and all(name.startswith(("neck.", "head.")) for name in names)
    assert not any("layers.0.residual_layer1" in name for name in names), "what nothing reads is not trained"
    trained = {name for name, weight in made.model.named_parameters() if weight.requires_grad}
    made.train_mode()
    made.model(pixel_values=torch.randn(1, 3, 28, 28)).predicted_depth.sum().backward()
    idle = {name for name, weight in made.model.named_parameters() if name in trained and weight.grad is None}
    assert not idle, "each weight that trains gets a gradient, as DDP needs"
