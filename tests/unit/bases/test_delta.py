"""Deltas are applied completely or not at all, and errors name the tensor that does not fit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, canonical_name, delta_names, delta_tensors
from regraft.bases.locate import Base, check_hash
from regraft.contracts import Anatomy
from regraft.errors import Damaged, Unsupported, WrongBase
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.methods.full import Full
from regraft.methods.lora import Lora
from unit.bases.families import adapted, batch_for, located, shake


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return located("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def made(base: Base) -> Adapted:
    return adapted("bert", base, FeatureExtraction())


def refused(made: Adapted, tensors: dict[str, torch.Tensor], problem: str) -> None:
    before = {name: tensor.clone() for name, tensor in delta_tensors(made).items()}
    with pytest.raises(Damaged) as caught:
        apply_delta(made, tensors)
    assert str(caught.value) == f"delta.safetensors: this delta does not fit: {problem}"
    assert all(torch.equal(tensor, before[name]) for name, tensor in delta_tensors(made).items())


def test_what_does_not_fit_is_named_and_nothing_is_written(made: Adapted) -> None:
    good = {name: torch.ones_like(tensor) for name, tensor in delta_tensors(made).items()}
    refused(made, {"classifier.weight": good["classifier.weight"]}, "classifier.bias is missing")
    refused(made, {}, "classifier.bias, classifier.weight are missing")
    refused(made, {**good, "encoder.x": torch.ones(1)}, "encoder.x is unexpected")
    refused(made, {**good, **dict.fromkeys("abcde", torch.ones(1))}, "a, b, c and 2 more are unexpected")
    refused(
        made,
        {**good, "classifier.bias": torch.ones(4)},
        "classifier.bias has shape (4,) and should have (3,)",
    )
    refused(
        made,
        {**good, "classifier.bias": torch.ones(3, dtype=torch.long)},
        "classifier.bias holds torch.int64 and should hold torch.float32",
    )
    apply_delta(made, good)
    assert made.linear_head().bias.sum() == 3


def test_the_tensors_are_the_live_ones(made: Adapted) -> None:
    with torch.no_grad():
        delta_tensors(made)["classifier.bias"].fill_(5)
    assert made.linear_head().bias.sum() == 15
    assert delta_tensors(made)["classifier.bias"] is made.linear_head().bias


def test_a_delta_of_another_base_is_reported(base: Base) -> None:
    why = "the delta was made on that one: give the base it was made on"
    check_hash(base, base.hash, why)
    with pytest.raises(WrongBase) as caught:
        check_hash(base, "0" * 64, why, where="tickets v3")
    assert str(caught.value) == f"tickets v3: {base.reference} has hash {base.hash}, and {'0' * 64} is expected: {why}"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("bert.encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.self.query.weight"),
        ("module.bert.encoder.layer.0.x", "encoder.layer.0.x"),
        ("_orig_mod.module.bert.encoder.x", "encoder.x"),
        ("module._orig_mod.bert.encoder._orig_mod.x", "encoder.x"),
        ("bert.layer._checkpoint_wrapped_module.0.x", "layer.0.x"),
        ("bert.query.base_layer.weight", "query.weight"),
        ("bert.query.lora_A.default.weight", "query.lora_A.weight"),
        ("bert.query.lora_magnitude_vector.default.weight", "query.lora_magnitude_vector.weight"),
        ("classifier.weight", "classifier.weight"),
        ("bertha.weight", "bertha.weight"),
        ("classifier.default.module.weight", "classifier.default.module.weight"),
    ],
)
def test_names_lose_wrappers_and_prefix_and_nothing_else(name: str, own: str) -> None:
    assert canonical_name(name, "bert") == own
    assert canonical_name(own, "") == own


def test_names_do_not_change_when_the_model_is_wrapped(base: Base) -> None:
    made = adapted("bert", base, Lora(rank=2))
    before = list(delta_tensors(made))
    made.model.compile()
    encoder = made.model.get_submodule("bert.encoder.layer")
    encoder.register_module("0", CheckpointWrapper(encoder[0]))  # type: ignore[index]
    assert any("_checkpoint_wrapped_module" in name for name, _ in made.model.named_parameters())
    assert list(delta_tensors(made)) == before


def test_two_tensors_of_one_name_are_refused() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.ModuleDict({"classifier": nn.Linear(1, 1)})
            self.classifier = nn.Linear(1, 1)

    with pytest.raises(Unsupported, match=r"the name 'classifier\.bias' without the base's prefix 'base'"):
        delta_names(Clash(), Anatomy("base", (), (), ("classifier",)), ())


def test_tied_tensors_count_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert delta_names(model, Anatomy("", (), (), ("1",)), ()) == ("0.weight",)


def test_buffers_that_are_not_saved_are_not_in_the_delta() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("kept", torch.ones(1))
    model.register_buffer("scratch", torch.ones(1), persistent=False)
    assert delta_names(model, Anatomy("", (), (), ()), ()) == ("weight", "bias", "kept")
    assert delta_names(model, Anatomy("", (), (), ()), (model,)) == ("weight", "bias")


def test_a_merged_model_has_no_delta_any_more(base: Base) -> None:
    made = adapted("bert", base, Lora(rank=2))
    made.method.merge(made.model)
    with pytest.raises(Unsupported, match="was it merged"):
        delta_tensors(made)


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_sharded_parameter_is_gathered_and_written(base: Base, one_rank: None) -> None:
    made, plain = adapted("bert", base, Full()), adapted("bert", base, Full())
    mesh = init_device_mesh("cpu", (1,))
    for module in list(made.model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
    gathered = delta_tensors(made)
    assert list(gathered) == list(delta_tensors(plain))
    assert not any(isinstance(tensor, DTensor) for tensor in gathered.values())
    shake(plain.model)
    apply_delta(made, delta_tensors(plain))
    for name, tensor in delta_tensors(made).items():
        assert torch.equal(tensor, delta_tensors(plain)[name])
    assert any(isinstance(parameter, DTensor) for parameter in made.model.parameters())


def test_the_same_model_again_takes_the_delta(base: Base) -> None:
    one, two = (adapted("bert", base, Full(), seed=seed) for seed in (1, 2))
    shake(one.model)
    apply_delta(two, delta_tensors(one))
    batch = batch_for("bert")
    assert torch.equal(one.forward(batch).logits, two.forward(batch).logits)
    assert one.delta_names == two.delta_names
