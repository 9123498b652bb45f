"""Every method on every family; both are enumerated, so that new members need no new test."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from regraft.bases.adapted import Adapted
from regraft.bases.delta import apply_delta, canonical_name, delta_tensors
from regraft.bases.load import quiet
from regraft.bases.locate import Base
from regraft.contracts import Method, under
from regraft.errors import Unsupported
from regraft.methods.freeze import Freeze
from unit.bases.families import FAMILIES, REFUSED, adapted, batch_for, located, outputs, shake, step

VARIANTS = {
    "freeze at 0": {"type": "freeze", "depth": 0},
    "freeze at 1": {"type": "freeze", "depth": 1},
    "freeze all": {"type": "freeze", "depth": "all"},
    "lora conv or linear": {"type": "lora", "targets": "auto", "rank": 2, "rslora": True, "dropout": 0.3},
    "dora": {"type": "lora", "rank": 2, "dora": True},
}
HEADS = [key for key in Method.names() if Method.lookup(key).fits == "prototypes"]
"""Methods of classifiers: those that describe patches need a model that gives some."""
METHODS: dict[str, Method] = {
    name: Method.parse(written)  # type: ignore[misc]
    for name, written in {**{key: {"type": key} for key in HEADS}, **VARIANTS}.items()
}
WRAPPERS = ("module", "_orig_mod", "base_layer", "default", "_checkpoint_wrapped_module", "base_model")

ADDED = (".lora_", ".ia3_l")
"""In names of what a method adds beside the base."""

Make = Callable[[str, Method], Adapted]

EVERY_WAY = {"bert", "mobilenet_v2", "resnet", "vit"}
"""Families that every method is always tried on; on the others the rest is slow only because there are so many."""

everywhere = pytest.mark.parametrize("family", FAMILIES)


def every_method(*quick: str) -> pytest.MarkDecorator:
    """Yield every family with every method; beyond EVERY_WAY, methods that are not `quick` are marked slow."""
    return pytest.mark.parametrize(
        ("family", "method"),
        [
            pytest.param(
                family,
                method,
                id=f"{name}-{family}",
                marks=_marks(family, method, name in quick),
            )
            for name, method in METHODS.items()
            for family in FAMILIES
            if family not in REFUSED.get(method.key(), ())
        ],
    )


def _marks(family: str, method: Method, quick: bool) -> Any:
    if method.has_phases():  # their models are those of full or of freeze
        return pytest.mark.slow if family == "bert" else pytest.mark.long
    return () if family in EVERY_WAY or quick else pytest.mark.slow


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {name: located(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(scope="module")
def make(bases: dict[str, Base]) -> Callable[[str, Method], Adapted]:
    """Return a family adapted by a method with seed 0, as copies of one, since loading takes most of the time."""
    made: dict[tuple[str, str], Adapted] = {}

    def copy(family: str, method: Method) -> Adapted:
        key = family, method.model_dump_json()
        if key not in made:
            made[key] = adapted(family, bases[family], method)
        return deepcopy(made[key])

    return copy


@pytest.fixture(scope="module")
def base_names(bases: dict[str, Base]) -> dict[str, set[str]]:
    """Return the names in each base's state dict, tied ones once."""
    with quiet():
        made = {name: AutoModel.from_pretrained(base.path) for name, base in bases.items()}
    return {name: set(_firsts(model).values()) for name, model in made.items()}


def state(made: Adapted) -> dict[str, Tensor]:
    """Return copies of all parameters and persistent buffers; tied ones once, by the first of their names."""
    prefix = made.anatomy.prefix
    return {canonical_name(name, prefix): tensor.detach().clone() for tensor, name in _firsts(made.model).items()}


def _firsts(model: nn.Module) -> dict[Tensor, str]:
    first: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(tensor, name)
    return first


def answer(made: Adapted, family: str) -> list[Tensor]:
    made.eval_mode()
    with torch.no_grad():
        return outputs(made.forward(batch_for(family)))


@every_method("full", "freeze at 1", "lora", "dora")
def test_a_step_moves_exactly_what_the_delta_holds(make: Make, family: str, method: Method) -> None:
    made = make(family, method)
    shake(made.model)
    before = state(made)
    step(made, batch_for(family))
    moved = {name for name, tensor in state(made).items() if not torch.equal(tensor, before[name])}
    assert moved == set(delta_tensors(made)) == set(made.delta_names)


@every_method("freeze at 1")
def test_an_sgd_step_moves_nothing_else(make: Make, family: str, method: Method) -> None:
    made = make(family, method)
    before = state(made)
    step(made, batch_for(family), "sgd")
    moved = {name for name, tensor in state(made).items() if not torch.equal(tensor, before[name])}
    assert moved
    assert moved <= set(made.delta_names)


@every_method("full", "lora")
def test_a_saved_delta_gives_the_same_bits(
    make: Make, bases: dict[str, Base], family: str, method: Method, tmp_path: Path
) -> None:
    made = make(family, method)
    shake(made.model)
    step(made, batch_for(family))
    save_file({name: tensor.detach().contiguous() for name, tensor in delta_tensors(made).items()}, tmp_path / "delta")
    fresh = adapted(family, bases[family], method, seed=99)
    apply_delta(fresh, load_file(tmp_path / "delta"))
    for there, here in zip(answer(made, family), answer(fresh, family), strict=True):
        assert torch.equal(there, here)


@every_method("full", "lora")
def test_names_are_the_bases_own(make: Make, base_names: dict[str, set[str]], family: str, method: Method) -> None:
    made, base = make(family, method), base_names[family]
    for name in made.delta_names:
        assert not set(name.split(".")) & set(WRAPPERS), name
    beside = [canonical_name(name, made.anatomy.prefix) for name in made.anatomy.head]
    of_base = {name for name in made.delta_names if not under(name, beside) and not any(part in name for part in ADDED)}
    assert of_base <= base
    if method.key() == "full":
        idle = [canonical_name(name, made.anatomy.prefix) for name in made.anatomy.idle]
        assert {name for name in base - of_base if not under(name, (*idle, *beside))} <= {
            "pooler.dense.weight",
            "pooler.dense.bias",
        }
    if method.serves != "whole" or method.key() in ("lora", "ia3"):
        assert not of_base


@every_method("lora")
def test_merging_keeps_the_outputs_and_the_architecture(make: Make, family: str, method: Method) -> None:
    made = make(family, method)
    shake(made.model)
    kind, before = type(made.model), answer(made, family)
    method.merge(made.model)
    for there, here in zip(before, answer(made, family), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
    assert type(made.model) is kind
    plain = make(family, METHODS["full"])
    assert set(made.model.state_dict()) == set(plain.model.state_dict())


@every_method("lora")
def test_the_same_seed_gives_the_same_model(make: Make, bases: dict[str, Base], family: str, method: Method) -> None:
    one, two = make(family, method), adapted(family, bases[family], method, seed=0)
    other = state(two)
    assert all(torch.equal(tensor, other[name]) for name, tensor in state(one).items())


@every_method("freeze at 1", "freeze all")
def test_the_trunk_answers_alike_in_both_modes(make: Make, family: str, method: Method) -> None:
    made = make(family, method)
    for module in made.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    trunk = made.anatomy.trunk(method.depth_of(made.anatomy))
    if not trunk:
        return
    seen: list[Tensor] = []
    last = made.model.get_submodule(made.anatomy.blocks[method.depth_of(made.anatomy) - 1])
    hook = last.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    made.train_mode()
    made.forward(batch_for(family))
    made.eval_mode()
    made.forward(batch_for(family))
    hook.remove()
    assert torch.equal(seen[0], seen[1])


REFUSALS = [(family, name) for name, families in REFUSED.items() for family in sorted(families)]


@pytest.mark.parametrize(("family", "name"), REFUSALS)
def test_a_family_that_a_method_cannot_adapt_is_refused_with_another_method(
    bases: dict[str, Base], family: str, name: str
) -> None:
    with pytest.raises(Unsupported, match="; write ") as caught:
        adapted(family, bases[family], METHODS[name])
    assert caught.value.where == "method"


@everywhere
def test_freezing_moves_nothing_below_any_depth(bases: dict[str, Base], family: str) -> None:
    total = FAMILIES[family].blocks
    for depth in {0, 1, 2, total // 2, total - 1, total}:
        made = adapted(family, bases[family], Freeze(depth=depth))
        prefix, blocks = made.anatomy.prefix, made.anatomy.blocks
        below = [canonical_name(name, prefix) for name in made.anatomy.trunk(depth)]
        assert not [name for name in made.delta_names if under(name, below)]
        for block in blocks[depth:]:
            assert any(under(name, (canonical_name(block, prefix),)) for name in made.delta_names)
