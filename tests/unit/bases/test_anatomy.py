"""Anatomy of models, checked against their forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoModel

from regraft.bases.anatomy import dissect
from regraft.bases.families import RULES
from regraft.contracts import Anatomy, under
from regraft.errors import Unsupported
from unit.bases.families import FAMILIES, LABELS, TWO_TOWERS, SomebodysClassifier, batch_for

AFTER = ("pooler", "layernorm", "conv_1x1", "norm", "ln_f", "layer_norm", "final_layer_norm")
"""Modules of families between the last block and the head."""
_RT_DETR = "encoder encoder_input_proj enc_output enc_score_head enc_bbox_head decoder_input_proj decoder"
SUFFIX = {"rt_detr": _RT_DETR.split()}
"""Further modules after the last block of families whose later layers are no chain."""
BETWEEN = {"convnext", "deberta-v2", "detr", "segformer", "swin", "wav2vec2"}
"""Families that compute something between blocks."""


class Straight:
    """A loader without files: the family's random model itself, in the Auto class of its task."""

    config: Any
    pooling: str | None = None
    pooling_problem = ""

    def __init__(self, name: str) -> None:
        self.config = FAMILIES[name].make().config
        self.config.architectures = []  # or a family with two classes for one task (DeiT) cannot be looked up

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
families = pytest.mark.parametrize("name", [name for name in FAMILIES if name not in TWO_TOWERS])


def inputs(name: str, model: nn.Module) -> dict[str, Any]:
    batch = {key: value for key, value in batch_for(name).items() if key != "labels"}
    decoded = isinstance(model, transformers.MarianModel | transformers.T5Model)
    return {**batch, "decoder_input_ids": batch["input_ids"]} if decoded else batch


def entries(model: nn.Module, anatomy: Anatomy, batch: dict[str, Any]) -> list[str]:
    """Return the names of stem, blocks and head modules in the order in which a forward pass calls them."""
    seen: list[str] = []
    named = dict(model.named_modules())
    for name in (part for part in (*anatomy.stem, *anatomy.blocks, *anatomy.head) if part in named):
        module = named[name]  # a list is entered by what it holds
        for entered in module if isinstance(module, nn.ModuleList) else (module,):
            entered.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    model.eval()(**batch)
    return seen


@families
@models
def test_blocks_run_once_each_in_the_order_stated(name: str, make: Any) -> None:
    model = make(name)
    anatomy = dissect(model)
    assert len(anatomy.blocks) == FAMILIES[name].blocks
    seen = entries(model, anatomy, inputs(name, model))
    assert [entry for entry in seen if entry in anatomy.blocks] == list(anatomy.blocks)
    # The shared table of two is entered by its other names; a wav2vec2 begins with a chain of convolutions.
    assert under(seen[0], anatomy.stem) or name in ("marian", "t5", "wav2vec2")
    after = seen[seen.index(anatomy.blocks[-1]) + 1 :]
    assert set(after) - set(anatomy.stem) == set(anatomy.head)


@families
@models
def test_the_output_of_a_block_is_all_that_the_next_one_reads(name: str, make: Any) -> None:
    model = make(name).eval()
    anatomy = dissect(model)
    left: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    for block in anatomy.blocks:
        module = model.get_submodule(block)
        module.register_forward_pre_hook(_read_into(read), with_kwargs=True)
        module.register_forward_hook(lambda _, __, out: left.append((out if torch.is_tensor(out) else out[0]).clone()))
    model(**inputs(name, model))
    crossing = len(anatomy.blocks) // 2 if name in ("bart", "marian", "t5") else 0
    for number, (out, into) in enumerate(zip(left, read[1:], strict=False)):
        if name in BETWEEN or number + 1 == crossing:
            continue
        if name == "yolos":  # adds its own position table between blocks, which is part of the stem
            into = into - model.get_submodule(anatomy.stem[1])((16, 24))[number]
        torch.testing.assert_close(into, out)


def _read_into(read: list[torch.Tensor]) -> Any:
    def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
        read.append((args[0] if args else kwargs["hidden_states"]).clone())

    return hook


@families
@models
def test_parts_are_disjoint_and_leave_only_norms_and_poolers(name: str, make: Any) -> None:
    model = make(name)
    anatomy = dissect(model)
    parts = (*anatomy.trunk(len(anatomy.blocks)), *anatomy.head)
    for parameter, _ in model.named_parameters():
        owners = [part for part in parts if under(parameter, (part,))]
        if len(owners) > 1:  # a table that the blocks share, kept in the first of them
            assert parameter.endswith("relative_attention_bias.weight")
            assert owners[0] in anatomy.stem
            assert len(owners) == 2
        if not owners:
            assert set(parameter.split(".")) & {*AFTER, *SUFFIX.get(name, ())} or under(parameter, anatomy.idle), (
                parameter
            )
    bare = {name for name, module in model.named_modules() if next(module.parameters(), None) is None}
    for entry in (part for part in parts if part not in bare):
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


@families
@models
def test_a_trunk_is_all_that_its_last_block_depends_on(name: str, make: Any) -> None:
    """Except tables that later blocks share, which belong to the trunk from the first block on."""
    model = make(name).eval().requires_grad_(True)
    anatomy = dissect(model)
    found: list[set[str]] = []
    named = {parameter: key for key, parameter in model.named_parameters()}
    for block in anatomy.blocks:
        model.get_submodule(block).register_forward_hook(lambda _, __, out: found.append(_weights_behind(out, named)))
    model(**inputs(name, model))
    for depth, reached in enumerate(found, 1):
        expected = {key for key in named.values() if under(key, anatomy.trunk(depth))}
        reached = {key for key in reached if not under(key, anatomy.idle)}
        assert reached <= expected
        assert all(under(key, anatomy.stem) for key in expected - reached)
    assert expected == reached


def _weights_behind(output: Any, named: dict[nn.Parameter, str]) -> set[str]:
    tensor = output if torch.is_tensor(output) else output[0]
    left, seen = [tensor.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [below for below, _ in node.next_functions]
    return {named[node.variable] for node in seen if hasattr(node, "variable") and node.variable in named}


def test_a_family_without_a_chain_says_so_and_still_has_its_head() -> None:
    sizes = {"hidden_size": 8, "embedding_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = AlbertForSequenceClassification(AlbertConfig(vocab_size=30, **sizes, num_hidden_layers=3))
    anatomy = dissect(model)
    assert (anatomy.prefix, anatomy.blocks, anatomy.head) == ("albert", (), ("classifier",))
    with pytest.raises(Unsupported, match=r"the blocks of 'albert' are not known: .*groups\.0 is called 3 times"):
        anatomy.depth(1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_without_an_inner_base_has_a_head(tied: bool) -> None:
    config = FAMILIES["t5"].make().config
    config.tie_word_embeddings = tied
    anatomy = dissect(transformers.T5ForConditionalGeneration(config))
    assert (anatomy.prefix, anatomy.head, len(anatomy.blocks)) == ("", ("lm_head",), 4)


def test_an_encoder_alone_is_dissected_too() -> None:
    anatomy = dissect(transformers.T5EncoderModel(FAMILIES["t5"].make().config))
    assert anatomy.blocks == ("encoder.block.0", "encoder.block.1")
    assert anatomy.beside == ()


def test_a_downsampling_belongs_to_the_block_after_it() -> None:
    anatomy = dissect(bare_model("swin"))
    assert anatomy.members(0) == ("encoder.layers.0.blocks.0",)
    assert anatomy.members(1) == ("encoder.layers.1.blocks.0", "encoder.layers.0.downsample")
    assert dissect(bare_model("segformer")).members(1)[1:] == ("stages.0.layer_norm", "stages.1.patch_embeddings")


def test_layers_that_the_head_never_reads_are_idle() -> None:
    assert dissect(task_model("deeplabv3-mobilenet_v2")).idle == ("mobilenet_v2.conv_1x1",)
    assert dissect(task_model("mobilenet_v2")).idle == ()


def test_any_module_can_be_asked() -> None:
    assert "Linear" in dissect(nn.Linear(1, 1)).reason


def test_every_rule_has_a_family_that_tests_it() -> None:
    tested = {FAMILIES[name].make().config.model_type for name in FAMILIES}
    assert set(RULES) - tested == {"rt_detr_v2", "depth_anything"}, "the latter is cut in tests of its task"
    assert RULES["rt_detr_v2"] == RULES["rt_detr"]
