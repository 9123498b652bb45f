"""The parts of a model are checked against what its forward pass really does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModel, GPT2Config, GPT2ForSequenceClassification

from regraft.bases.anatomy import RULES, dissect
from regraft.contracts import Anatomy, under
from regraft.errors import Unsupported
from unit.bases.families import FAMILIES, LABELS, SomebodysClassifier, batch_for

AFTER = ("pooler", "layernorm", "conv_1x1")
"""What families have between the last block and the head."""


class Straight:
    """A loader without files: the family's random model itself, in the Auto class of its task."""

    config: Any
    pooling: str | None = None

    def __init__(self, name: str) -> None:
        self.config = FAMILIES[name].make().config

    def __call__(self, auto: str, *, labels: Sequence[str] = (), **config: Any) -> nn.Module:
        if labels:
            self.config.num_labels = len(labels)
        model: nn.Module = getattr(transformers, auto).from_config(self.config, **config)
        return model


def task_model(name: str) -> nn.Module:
    return FAMILIES[name].task.build(Straight(name), LABELS)


def bare_model(name: str) -> nn.Module:
    model: nn.Module = AutoModel.from_config(FAMILIES[name].make().config)
    return model


models = pytest.mark.parametrize("make", [task_model, bare_model])
families = pytest.mark.parametrize("name", FAMILIES)


def inputs(name: str) -> dict[str, Any]:
    return {key: value for key, value in batch_for(name).items() if key != "labels"}


def entries(model: nn.Module, anatomy: Anatomy, batch: dict[str, Any]) -> list[str]:
    """The names of stem, blocks and head modules in the order in which a forward pass enters them."""
    seen: list[str] = []
    named = dict(model.named_modules())
    for name in (*anatomy.stem, *anatomy.blocks, *anatomy.head):
        named[name].register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    model.eval()(**batch)
    return seen


@families
@models
def test_blocks_run_once_each_in_the_order_told(name: str, make: Any) -> None:
    model = make(name)
    anatomy = dissect(model)
    assert len(anatomy.blocks) == FAMILIES[name].blocks
    seen = entries(model, anatomy, inputs(name))
    assert [entry for entry in seen if entry in anatomy.blocks] == list(anatomy.blocks)
    assert seen[0] == anatomy.stem[0]
    after = seen[seen.index(anatomy.blocks[-1]) + 1 :]
    assert set(after) == set(anatomy.head)


@families
@models
def test_the_output_of_a_block_is_all_that_the_next_one_reads(name: str, make: Any) -> None:
    model = make(name).eval()
    anatomy = dissect(model)
    left: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    for block in anatomy.blocks:
        module = model.get_submodule(block)
        module.register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
        module.register_forward_hook(lambda _, __, out: left.append((out if torch.is_tensor(out) else out[0]).clone()))
    model(**inputs(name))
    for number, (out, into) in enumerate(zip(left, read[1:], strict=False)):
        if name == "yolos":  # adds a position table of its own between blocks, which the stem holds
            into = into - model.get_submodule(anatomy.stem[1])((16, 24))[number]
        torch.testing.assert_close(into, out)


@families
@models
def test_parts_are_disjoint_and_leave_only_norms_and_poolers(name: str, make: Any) -> None:
    model = make(name)
    anatomy = dissect(model)
    parts = (*anatomy.stem, *anatomy.blocks, *anatomy.head)
    for parameter, _ in model.named_parameters():
        owners = [part for part in parts if under(parameter, (part,))]
        assert len(owners) <= 1
        if not owners:
            assert set(parameter.split(".")) & set(AFTER), parameter
    for entry in parts:
        assert any(under(parameter, (entry,)) for parameter, _ in model.named_parameters()), entry


@families
def test_a_bare_base_has_no_prefix_and_no_head(name: str) -> None:
    anatomy = dissect(bare_model(name))
    assert (anatomy.prefix, anatomy.head) == ("", ())


@families
def test_a_task_model_has_the_bare_models_parts_below_its_prefix(name: str) -> None:
    bare, whole = dissect(bare_model(name)), dissect(task_model(name))
    assert whole.prefix
    assert whole.blocks == tuple(f"{whole.prefix}.{block}" for block in bare.blocks)
    assert whole.stem == tuple(f"{whole.prefix}.{part}" for part in bare.stem)
    assert whole.head


def test_a_wrapper_around_a_task_model_is_followed_down_to_the_base() -> None:
    inner = task_model("bert")
    anatomy = dissect(SomebodysClassifier(inner, 2))
    assert anatomy.prefix == "base.bert"
    assert anatomy.blocks[0] == "base.bert.encoder.layer.0"
    assert anatomy.head == ("classifier", "base.classifier")


def test_position_tables_shared_by_blocks_belong_to_the_stem() -> None:
    anatomy = dissect(task_model("yolos"))
    assert anatomy.stem == ("vit.embeddings", "vit.encoder.interpolation")


def test_a_family_without_a_rule_says_so_and_still_has_its_head() -> None:
    model = GPT2ForSequenceClassification(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9, n_positions=8))
    anatomy = dissect(model)
    assert (anatomy.prefix, anatomy.blocks, anatomy.head) == ("transformer", (), ("score",))
    assert "gpt2" in anatomy.reason
    assert all(family in anatomy.reason for family in RULES)
    with pytest.raises(Unsupported, match="cannot be frozen at a depth: the blocks of 'gpt2' are not known"):
        anatomy.depth(1)


def test_any_module_can_be_asked() -> None:
    assert "Linear" in dissect(nn.Linear(1, 1)).reason


def test_every_rule_has_a_family_that_tests_it() -> None:
    assert {FAMILIES[name].make().config.model_type for name in FAMILIES} == set(RULES)
