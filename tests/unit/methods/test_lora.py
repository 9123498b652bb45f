"""LoRA: which layers get factors, and what PEFT's wrappers must not break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from torch import nn

from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import Base
from regraft.contracts import Anatomy, Method, under
from regraft.errors import Unsupported
from regraft.methods.lora import Lora
from unit.bases.families import FAMILIES, adapted, batch_for, located, outputs, shake, step
from unit.bases.test_anatomy import task_model


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return located("bert", tmp_path_factory.mktemp("bert"))


def chosen(made: Adapted) -> set[str]:
    """Return the names of the adapted layers, as in the base."""
    return {name.split(".lora_")[0] for name in made.delta_names if ".lora_" in name}


def endings(made: Adapted) -> set[str]:
    return {name.rpartition(".")[2] for name in chosen(made)}


def test_auto_adapts_queries_and_values_of_every_layer(base: Base) -> None:
    made = adapted("bert", base, Lora())
    assert chosen(made) == {
        f"encoder.layer.{layer}.attention.self.{which}" for layer in range(3) for which in ("query", "value")
    }


PROJECTIONS = {
    "query value": ("bert", "bert-pooled", "dpt", "roberta", "xlm-roberta", "yolos"),
    "q_proj v_proj": (
        "bart",
        "clip",
        "deit",
        "detr",
        "dinov2",
        "llama",
        "marian",
        "qwen2",
        "qwen3",
        "segformer",
        "swin",
        "vit",
        "wav2vec2",
        "audio-spectrogram-transformer",
    ),
    "q_proj v_proj value_proj": ("rt_detr",),
    "query_proj value_proj": ("deberta-v2",),
    "q_lin v_lin": ("distilbert",),
    "q v": ("mpnet", "t5"),
    "c_attn": ("gpt2",),
    "pwconv1 pwconv2": ("convnext",),
    "convolution": ("deeplabv3-mobilenet_v2", "mobilenet_v1", "mobilenet_v2", "resnet", "resnet-bottleneck"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_auto_finds_layers_of_every_family_that_get_gradients(name: str) -> None:
    model = task_model(name)
    anatomy = dissect(model)
    Lora(rank=2).adapt(model, anatomy)
    layers = {key: module for key, module in model.named_modules() if isinstance(module, LoraLayer)}
    assert {key.rpartition(".")[2] for key in layers} == set(
        next(k for k, v in PROJECTIONS.items() if name in v).split()
    )
    for key, layer in layers.items():
        assert getattr(layer.get_base_layer(), "groups", 1) == 1
        assert not under(key, (*anatomy.head, *anatomy.idle))
    batch = {key: value for key, value in batch_for(name).items() if key != "labels"}
    torch.autograd.backward([value.square().sum() for value in outputs(model(**batch))])
    factors = {key: parameter for key, parameter in model.named_parameters() if ".lora_" in key}
    assert factors
    assert all(parameter.grad is not None for parameter in factors.values())


@pytest.mark.parametrize(
    ("name", "ending"), [("t5", "EncDecAttention.k"), ("detr", "encoder_attn.o_proj"), ("gpt2", "attn.c_proj")]
)
def test_attention_is_recognised_by_every_spelling_of_it(name: str, ending: str) -> None:
    model = task_model(name)
    Lora(rank=2, targets="attention").adapt(model, dissect(model))
    layers = [key for key, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert any(key.endswith(ending) for key in layers)
    assert not [key for key in layers if "mlp" in key or "DenseReluDense" in key]


def test_layers_whose_weights_are_read_without_calling_them_are_left_alone() -> None:
    class Reading(nn.Module):
        base_model_prefix = "base"

        def __init__(self) -> None:
            super().__init__()
            self.base = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 1), "feed": nn.Linear(4, 4)})

    model = Reading()
    Lora(targets="linear").adapt(model, Anatomy("base", (), (), ()))
    assert [key for key, module in model.named_modules() if isinstance(module, LoraLayer)] == ["base.feed"]


def test_attention_is_all_its_projections_and_linear_the_feed_forward_too(base: Base) -> None:
    attention = chosen(adapted("bert", base, Lora(targets="attention")))
    linear = chosen(adapted("bert", base, Lora(targets="linear")))
    assert {name.removeprefix("encoder.layer.0.") for name in attention if ".0." in name} == {
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"
    }  # fmt: skip
    assert linear - attention == {
        f"encoder.layer.{layer}.{which}.dense" for layer in range(3) for which in ("intermediate", "output")
    }


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "resnet"])
def test_convolutions_are_adapted_but_never_depthwise_ones(name: str, tmp_path: Path) -> None:
    made = adapted(name, located(name, tmp_path), Lora(rank=2))
    convolutions = {
        key.removeprefix(f"{made.anatomy.prefix}."): module.get_base_layer()
        for key, module in made.model.named_modules()
        if hasattr(module, "get_base_layer")
    }
    assert convolutions.keys() == chosen(made)
    assert convolutions
    assert all(layer.groups == 1 for layer in convolutions.values())
    assert chosen(adapted(name, made.base, Lora(rank=2, targets="conv"))) == chosen(made)


def test_endings_of_names_choose_layers_of_the_base_only(base: Base) -> None:
    made = adapted(
        "bert", base, Lora(targets=("self.key", "2.output.dense", "classifier", "layer.1.intermediate.dense"))
    )
    assert chosen(made) == {f"encoder.layer.{layer}.attention.self.key" for layer in range(3)} | {
        "encoder.layer.2.output.dense", "encoder.layer.1.intermediate.dense"
    }  # fmt: skip


def test_endings_that_name_nothing_are_answered_with_what_there_is(base: Base) -> None:
    with pytest.raises(Unsupported) as caught:
        adapted("bert", base, Lora(targets=("ery",)))
    assert str(caught.value).startswith("method.targets: ('ery',) names no layer of this base")
    assert "dense, key, query, value" in str(caught.value)


@pytest.mark.parametrize("written", ["qv", [], [""], [1], None, {}])
def test_targets_that_are_none_are_refused(written: object) -> None:
    with pytest.raises(ValidationError, match="allowed are auto, attention, linear, conv, or a list of endings"):
        Method.parse({"type": "lora", "targets": written})


def test_a_list_in_a_spec_survives_the_trip_through_json() -> None:
    method = Method.parse({"type": "lora", "targets": ["query"], "rank": 4})
    assert isinstance(method, Lora)
    assert Method.parse(method.model_dump(mode="json")) == method


def test_a_new_adapter_changes_nothing_yet(base: Base) -> None:
    made = adapted("bert", base, Lora())
    plain = adapted("bert", base, Method.parse("full"))  # type: ignore[arg-type]
    batch = batch_for("bert")
    torch.testing.assert_close(made.forward(batch).logits, plain.forward(batch).logits, rtol=0, atol=0)


def test_scaling_is_alpha_over_rank_or_over_its_root(base: Base) -> None:
    for method, scaling in ((Lora(rank=4, alpha=8), 2.0), (Lora(rank=4, alpha=8, rslora=True), 4.0)):
        made = adapted("bert", base, method)
        layer = made.model.get_submodule("bert.encoder.layer.0.attention.self.query")
        assert layer.scaling == {"default": scaling}


@pytest.mark.parametrize("side", [31, 32, 33])
@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_mobilenets_own_padding_reads_the_wrapped_convolution(name: str, side: int, tmp_path: Path) -> None:
    base = located(name, tmp_path)
    made = adapted(name, base, Lora(rank=2, targets="conv"))
    plain = adapted(name, base, Method.parse("full"))  # type: ignore[arg-type]
    batch = {"pixel_values": torch.randn(2, 3, side, side)}
    torch.testing.assert_close(made.forward(batch).logits, plain.forward(batch).logits, rtol=0, atol=0)
    stem = f"{name}.conv_stem" + (".first_conv" if name.endswith("2") else "")
    wrapped: Any = made.model.get_submodule(f"{stem}.convolution")
    assert wrapped.stride == wrapped.get_base_layer().stride == (2, 2)


@pytest.mark.parametrize("dora", [False, True])
def test_a_step_moves_no_statistic_of_batch_norm(dora: bool, tmp_path: Path) -> None:
    made = adapted("mobilenet_v2", located("mobilenet_v2", tmp_path), Lora(rank=2, dora=dora))
    before = {name: buffer.clone() for name, buffer in made.model.named_buffers()}
    assert len(before) > 100
    step(made, batch_for("mobilenet_v2"))
    assert all(torch.equal(buffer, before[name]) for name, buffer in made.model.named_buffers())


def test_it_is_served_by_its_factors_unless_magnitudes_rescale_the_base() -> None:
    assert Lora().serves == "low_rank"
    assert Lora(dora=True).serves == "whole"


def test_a_merged_model_holds_only_the_bases_own_layers(base: Base) -> None:
    made = adapted("bert", base, Lora(dora=True))
    shake(made.model)
    made.method.merge(made.model)
    assert not [name for name, _ in made.model.named_modules() if "lora" in name or "base_layer" in name]
    assert not hasattr(made.model, "peft_config")
    with torch.no_grad():
        made.forward(batch_for("bert"))


def test_a_base_without_known_blocks_is_adapted_too() -> None:
    class Unknown(nn.Module):
        base_model_prefix = "base"

        def __init__(self) -> None:
            super().__init__()
            self.base = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "pooler": nn.Linear(4, 4)})
            self.classifier = nn.Linear(4, 2)

    for targets, adapts in (("auto", 1), ("linear", 1)):
        model = Unknown()
        Lora.model_validate({"targets": targets}).adapt(model, Anatomy("base", (), (), ("classifier",), "unknown"))
        assert sum(".lora_A" in name for name, _ in model.named_parameters()) == adapts
        assert model.classifier.weight.requires_grad


def test_the_delta_is_the_factors_and_the_head(base: Base) -> None:
    made = adapted("bert", base, Lora(rank=3))
    shapes = {name: tuple(tensor.shape) for name, tensor in delta_tensors(made).items()}
    assert shapes["encoder.layer.0.attention.self.query.lora_A.weight"] == (3, 8)
    assert shapes["encoder.layer.0.attention.self.query.lora_B.weight"] == (8, 3)
    assert {name for name in shapes if ".lora_" not in name} == {"classifier.weight", "classifier.bias"}
