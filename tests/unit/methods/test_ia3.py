"""IA3: which layers get vectors, what these scale, and what becomes of them in an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.ia3 import IA3Layer
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as PEFT_INPUTS,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFT_TARGETS,
)
from pydantic import ValidationError
from torch import nn

from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import Base
from regraft.contracts import Method, under
from regraft.errors import Unsupported
from regraft.losses.l2_sp import L2SP
from regraft.methods.ia3 import Ia3
from regraft.spec.sections import TrainingSpec
from regraft.training.optimizer import parameter_groups
from unit.bases.families import FAMILIES, adapted, batch_for, located, outputs, shake
from unit.bases.test_anatomy import task_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return located("bert", tmp_path_factory.mktemp("bert"))


def scaled(model: nn.Module) -> dict[str, bool]:
    """Return the layers with a vector, and whether it scales their inputs."""
    return {name: layer.is_feedforward for name, layer in model.named_modules() if isinstance(layer, IA3Layer)}


BERT = "attention.self.key attention.self.value", "output.dense"
VIT = "attention.k_proj attention.v_proj", "mlp.fc2"
BART = "self_attn.k_proj self_attn.v_proj encoder_attn.k_proj encoder_attn.v_proj", "fc2"
LLAMA = "self_attn.k_proj self_attn.v_proj", "mlp.down_proj"
LAST_BLOCK: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("bert", "bert-pooled", "roberta", "xlm-roberta"), BERT),
    **dict.fromkeys(("vit", "deit", "dinov2", "swin", "segformer", "audio-spectrogram-transformer"), VIT),
    **dict.fromkeys(("bart", "marian"), BART),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), LLAMA),
    "clip": (LLAMA[0], "mlp.fc2"),
    "detr": (BART[0], "mlp.fc2"),
    "deberta-v2": ("attention.self.key_proj attention.self.value_proj", "output.dense"),
    "distilbert": ("attention.k_lin attention.v_lin", "ffn.lin2"),
    "gpt2": ("attn.c_attn", "mlp.c_proj"),
    "mpnet": ("attention.attn.k attention.attn.v", "output.dense"),
    "t5": (
        "layer.0.SelfAttention.k layer.0.SelfAttention.v layer.1.EncDecAttention.k layer.1.EncDecAttention.v",
        "layer.2.DenseReluDense.wo",
    ),
    **dict.fromkeys(("dpt", "yolos"), ("attention.attention.key attention.attention.value", "output.dense")),
    "wav2vec2": ("attention.k_proj attention.v_proj", "feed_forward.output_dense"),
    "convnext": ("", "pwconv2"),
    "rt_detr": ("", ""),
    "resnet": ("shortcut.convolution layer.0.convolution layer.1.convolution", ""),
    "resnet-bottleneck": (
        "shortcut.convolution layer.0.convolution layer.1.convolution layer.2.convolution",
        "",
    ),
    "mobilenet_v1": ("convolution", ""),
    **dict.fromkeys(
        ("mobilenet_v2", "deeplabv3-mobilenet_v2"),
        ("expand_1x1.convolution conv_3x3.convolution reduce_1x1.convolution", ""),
    ),
}
"""Layers of the last block whose outputs, and whose inputs, are scaled."""


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_finds_layers_of_every_family_that_get_gradients(family: str) -> None:
    model = task_model(family)
    anatomy = dissect(model)
    Ia3().adapt(model, anatomy)
    found = scaled(model)
    block = anatomy.blocks[-1]
    last = {name.removeprefix(f"{block}."): inputs for name, inputs in found.items() if under(name, (block,))}
    wanted_outputs, wanted_inputs = LAST_BLOCK[family]
    assert last == dict.fromkeys(wanted_outputs.split(), False) | dict.fromkeys(wanted_inputs.split(), True)
    assert not [name for name in found if under(name, (*anatomy.head, *anatomy.idle))]
    batch = {key: value for key, value in batch_for(family).items() if key != "labels"}
    torch.autograd.backward([value.square().sum() for value in outputs(model(**batch))])
    vectors = [parameter for name, parameter in model.named_parameters() if ".ia3_l" in name]
    assert vectors and all(parameter.grad is not None and (parameter == 1).all() for parameter in vectors)


@pytest.mark.parametrize("family", ["llama", "t5", "gpt2"])
def test_where_pefts_table_follows_the_paper_the_layers_are_the_same(family: str) -> None:
    model = task_model(family)
    anatomy = dissect(model)
    Ia3().adapt(model, anatomy)
    names = [name for name, _ in task_model(family).named_modules()]
    wanted = {
        name: any(name.endswith(ending) for ending in PEFT_INPUTS[family])
        for name in names
        if any(name.endswith(f".{ending}") for ending in PEFT_TARGETS[family])
    }
    assert scaled(model) == wanted


def test_vectors_scale_outputs_of_keys_and_inputs_of_the_second_layer(base: Base) -> None:
    made = adapted("bert", base, Ia3())
    shake(made.model)
    key: Any = made.model.get_submodule("bert.encoder.layer.0.attention.self.key")
    second: Any = made.model.get_submodule("bert.encoder.layer.0.output.dense")
    rows = torch.randn(2, 8)
    wide = torch.randn(2, second.in_features)
    with torch.no_grad():
        vector, plain = key.ia3_l["default"].flatten(), key.get_base_layer()
        torch.testing.assert_close(key(rows), vector * plain(rows))
        vector, plain = second.ia3_l["default"].flatten(), second.get_base_layer()
        torch.testing.assert_close(second(wide), plain(vector * wide))


def test_a_new_adapter_changes_nothing_yet(base: Base) -> None:
    made = adapted("bert", base, Ia3())
    plain = adapted("bert", base, Method.parse("full"))  # type: ignore[arg-type]
    batch = batch_for("bert")
    torch.testing.assert_close(made.forward(batch).logits, plain.forward(batch).logits, rtol=0, atol=0)


def test_the_delta_is_the_vectors_and_the_head(base: Base) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in delta_tensors(adapted("bert", base, Ia3())).items()}
    assert shapes.pop("classifier.weight") and shapes.pop("classifier.bias")
    assert set(shapes) == {
        f"encoder.layer.{layer}.{name}.ia3_l"
        for layer in range(3)
        for name in ("attention.self.key", "attention.self.value", "output.dense")
    }
    assert shapes["encoder.layer.0.attention.self.key.ia3_l"] == (8, 1)


def chosen(made: Adapted) -> dict[str, bool]:
    return {name.removeprefix("bert.encoder.layer."): inputs for name, inputs in scaled(made.model).items()}


def test_endings_choose_layers_as_for_peft(base: Base) -> None:
    made = adapted("bert", base, Ia3(targets=("self.query", "2.output.dense"), feedforward=("2.output.dense",)))
    assert chosen(made) == {
        **{f"{layer}.attention.self.query": False for layer in range(3)},
        "2.output.dense": True,
    }
    assert set(chosen(adapted("bert", base, Ia3(feedforward=()))).values()) == {False}


@pytest.mark.parametrize(("field", "written"), [("targets", "ery"), ("feedforward", "classifier")])
def test_an_ending_that_names_nothing_is_answered_with_what_there_is(base: Base, field: str, written: str) -> None:
    with pytest.raises(Unsupported) as caught:
        adapted("bert", base, Ia3.model_validate({field: ["dense", written]}))
    assert str(caught.value).startswith(f"method.{field}: {written!r} names no layer of this base")
    assert "dense, key, query, value" in str(caught.value)


def test_nothing_to_scale_is_refused(base: Base) -> None:
    with pytest.raises(Unsupported, match=r"method\.targets: no layer of this \w+ is scaled"):
        adapted("bert", base, Ia3(targets=(), feedforward=()))


@pytest.mark.parametrize("written", ["qv", [""], [1], None, {}])
@pytest.mark.parametrize("field", ["targets", "feedforward"])
def test_endings_that_are_none_are_refused(field: str, written: object) -> None:
    with pytest.raises(ValidationError, match="allowed are auto, or a list of endings"):
        Method.parse({"type": "ia3", field: written})


def test_a_list_in_a_spec_survives_the_trip_through_json() -> None:
    method = Method.parse({"type": "ia3", "targets": ["query"], "feedforward": []})
    assert isinstance(method, Ia3)
    assert Method.parse(method.model_dump(mode="json")) == method


def test_weight_decay_leaves_the_vectors_alone(base: Base) -> None:
    made = adapted("bert", base, Ia3())
    named = dict(made.model.named_parameters())
    groups = parameter_groups(named.items(), made.anatomy, TrainingSpec(lr=1e-2, head_factor=1.0), made.method.decays)
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(named["classifier.weight"])}


def test_the_distance_to_the_base_has_no_meaning_for_vectors(base: Base) -> None:
    made = adapted("bert", base, Ia3())
    with pytest.raises(Unsupported, match="this method moves none"):
        L2SP().build(made.model, made.anatomy)


@pytest.mark.parametrize("side", [31, 32])
def test_mobilenets_own_padding_reads_the_wrapped_convolution(side: int, tmp_path: Path) -> None:
    made = adapted("mobilenet_v2", located("mobilenet_v2", tmp_path), Ia3())
    plain = adapted("mobilenet_v2", made.base, Method.parse("full"))  # type: ignore[arg-type]
    batch = {"pixel_values": torch.randn(2, 3, side, side)}
    torch.testing.assert_close(made.forward(batch).logits, plain.forward(batch).logits, rtol=0, atol=0)
