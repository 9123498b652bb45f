"""Blocks of families without a rule are found by running the model, and false chains are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.anatomy import dissect
from regraft.bases.block_discovery import NoBlocks, discover_blocks
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import locate
from regraft.contracts import Method, under
from regraft.errors import Unsupported
from unit.bases.families import FAMILIES, LABELS, TWO_TOWERS, TinyText, batch_for, shake, step
from unit.bases.test_anatomy import bare_model, task_model

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}


SIDE_BY_SIDE = ("rt_detr",)
"""Families whose backbone, encoder and decoder are no single chain: only a rule can choose the backbone."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return x + out


class Toy(nn.Module):
    """A model whose forward pass each test defines: only the pass distinguishes a chain from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=9)
        self.table = nn.Embedding(9, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.unread = nn.Linear(4, 4)

    def forward(self, input_ids: Tensor) -> Any:
        return self.run(self.table(input_ids))

    def run(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class Parallel(Toy):
    def run(self, x: Tensor) -> Any:
        return [layer(x) for layer in self.layers]


class Repeated(Toy):
    def run(self, x: Tensor) -> Any:
        return self.layers[0](self.layers[0](x))


class Backwards(Toy):
    def run(self, x: Tensor) -> Any:
        for layer in list(self.layers)[::-1]:
            x = layer(x)
        return x


class Failing(Toy):
    def run(self, x: Tensor) -> Any:
        raise IndexError("three is too few")


class TwoTowers(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.others = nn.ModuleList(Layer() for _ in range(3))

    def run(self, x: Tensor) -> Any:
        other = x
        for layer, beside in zip(self.layers, self.others, strict=True):
            x, other = layer(x), beside(other)
        return x, other


class Decorated(Toy):
    """A chain with a table shared by later layers, a module between two layers, and parallel projections at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.randn(4))
        self.step = nn.Linear(4, 4)
        self.projections = nn.ModuleList(Layer() for _ in range(2))

    def run(self, x: Tensor) -> Any:
        for number, layer in enumerate(self.layers):
            x = layer((self.step(x) if number == 2 else x) * self.shared)
        return [projection(x) for projection in self.projections]


@pytest.mark.parametrize("make", [task_model, bare_model])
@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_heavy_lists_that_stand_side_by_side_need_a_rule(name: str, make: Any) -> None:
    model = make(name)
    with pytest.raises(NoBlocks, match="begin chains that do not feed each other"):
        discover_blocks(model, dissect(model).prefix)


@pytest.mark.parametrize("name", TWO_TOWERS)
def test_of_two_towers_that_is_found_which_the_task_reads(name: str) -> None:
    with pytest.raises(NoBlocks, match="begin chains that do not feed each other"):
        discover_blocks(bare_model(name), "")
    model = task_model(name)
    found = dissect(model)
    assert len(found.blocks) == FAMILIES[name].blocks
    read = {key for key, _ in model.named_parameters() if not under(key, found.idle)}
    assert read and not any("text" in key for key in read), "the other tower is idle: nothing of it is trained"


@pytest.mark.parametrize("make", [task_model, bare_model])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in (*SIDE_BY_SIDE, *TWO_TOWERS)])
def test_it_finds_what_the_rules_say(name: str, make: Any) -> None:
    model = make(name)
    rule = dissect(model)
    found = discover_blocks(model, rule.prefix)
    assert found.blocks == rule.blocks
    if name == "gpt2":
        assert set(found.stem) == set(rule.stem)
    for depth in range(len(rule.blocks) + 1):
        names = [parameter for parameter, _ in model.named_parameters()]
        more = {name for name in names if under(name, rule.trunk(depth)) != under(name, found.trunk(depth))}
        rule_idle = (*rule.stem, *rule.idle)
        assert all(under(name, rule_idle) for name in more), "a rule freezes shared tables from the first block on"
    # Of layers in the head that nothing reads, the rule alone knows.
    idle = {name for name in names if under(name, rule.idle) and (not rule.prefix or under(name, (rule.prefix,)))}
    unread = {name for name in names if under(name, found.idle)}
    # That Marian's sines are constants is known to the rule alone where transformers lets gradients reach them.
    assert unread == idle or (name == "marian" and unread < idle)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Parallel, "layers.1 does not depend on the output of layers.0"),
        (Repeated, "layers.0 is called 2 times in a forward pass"),
        (Backwards, "layers.1 does not depend on the output of layers.0"),
        (Failing, "it did not run on a dummy input: IndexError: three is too few"),
        (TwoTowers, "layers.0 and others.0 begin chains that do not feed each other"),
        (lambda: nn.Linear(1, 1), "it holds no list of layers"),
    ],
)
def test_what_is_no_chain_is_refused_with_the_reason(make: Any, reason: str) -> None:
    with pytest.raises(NoBlocks) as caught:
        discover_blocks(make(), "")
    assert str(caught.value) == reason
    assert reason in dissect(make()).reason


def test_what_stands_between_blocks_belongs_to_the_one_after_it() -> None:
    anatomy = dissect(Decorated())
    assert anatomy.blocks == ("layers.0", "layers.1", "layers.2")
    assert (anatomy.stem, anatomy.beside) == (("shared", "table"), ((), (), ("step",)))
    assert anatomy.idle == ("unread",)


class Mixed(nn.Module):
    """Two layers side by side, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.left(x) + self.right(x)
        return out


class Spread(nn.Module):
    """A model without a list of layers: plain ones in a sequence, as VGG's, then attributes, and its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=9)
        self.features = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
        self.late, self.early, self.unread = Mixed(), Mixed(), Mixed()
        self.fc = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.fc(self.late(self.early(self.features(input_ids))))
        return out


class Picky(nn.Module):
    """A model that fails on small images in the middle of its pass."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(pretrained_cfg={"input_size": [1, 70, 72]})
        self.stem, self.late = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        seen: Tensor = self.stem(pixel_values)
        if tuple(pixel_values.shape) != (1, 1, 70, 72):
            raise RuntimeError("too small")
        out: Tensor = self.late(seen)
        return out


def test_a_base_without_lists_is_taken_apart_as_far_as_it_is_a_chain() -> None:
    anatomy = discover_blocks(Spread(), "", ("fc",))
    assert anatomy.blocks == ("features.1", "features.3", "early", "late")
    assert (anatomy.stem, anatomy.beside, anatomy.idle) == (("features.0",), (), ("unread",))


class Beside(nn.Module):
    """A model whose modules all read its input."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=9)
        self.one, self.other = nn.Embedding(9, 4), nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.one(input_ids) + self.other(input_ids)
        return out


def test_modules_that_are_no_chain_are_refused() -> None:
    with pytest.raises(NoBlocks, match="no list of layers, and its modules are no chain"):
        discover_blocks(Beside(), "")


def test_what_a_failed_attempt_called_is_not_counted() -> None:
    assert discover_blocks(Picky(), "").blocks == ("stem", "late")


def test_a_chain_found_leaves_the_model_as_it_was() -> None:
    model: Any = task_model("mobilenet_v2").train()
    model.mobilenet_v2.eval()
    model.mobilenet_v2.conv_stem.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes, drawn = [module.training for module in model.modules()], torch.get_rng_state()
    discover_blocks(model, "mobilenet_v2")
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


OTHERS = {
    "beit": lambda: hf.BeitForImageClassification(hf.BeitConfig(image_size=16, patch_size=8, **SIZES)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(image_size=16, patch_size=8, **SIZES)),
    "electra": lambda: hf.ElectraForSequenceClassification(
        hf.ElectraConfig(vocab_size=30, embedding_size=4, max_position_embeddings=16, **SIZES)
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(vocab_size=30, num_key_value_heads=1, **SIZES)),
    "modernbert": lambda: hf.ModernBertForSequenceClassification(
        hf.ModernBertConfig(vocab_size=30, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, **SIZES)
    ),
    "regnet": lambda: hf.RegNetForImageClassification(
        hf.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4)
    ),
}
BLOCKS = {"regnet": 3}


def test_two_towers_of_a_real_family_are_refused() -> None:
    sides = {"image_size": 16, "patch_size": 8, **SIZES}
    words = {"vocab_size": 30, "max_position_embeddings": 16, "eos_token_id": 29, **SIZES}
    reason = dissect(hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config=sides, projection_dim=8))).reason
    assert "text_model.encoder.layers.0 and " in reason or "vision_model.encoder.layers.0 and " in reason


@pytest.mark.parametrize("name", OTHERS)
def test_families_without_a_rule_are_understood(name: str) -> None:
    model: nn.Module = OTHERS[name]()
    anatomy = dissect(model)
    assert len(anatomy.blocks) == BLOCKS.get(name, 3), anatomy.reason
    assert anatomy.stem
    if name == "dinov2":
        assert anatomy.idle == ("dinov2.embeddings.mask_token",)


@pytest.mark.parametrize("name", OTHERS)
def test_they_are_understood_without_their_weights(name: str) -> None:
    model: Any = OTHERS[name]()
    with torch.device("meta"):
        weightless = type(model)(model.config)
    assert dissect(weightless) == dissect(model)


@pytest.mark.parametrize("method", ["full", "lora", "feature-extraction"])
def test_a_base_without_blocks_is_trained_by_all_but_freeze(method: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "embedding_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    config = hf.AlbertConfig(vocab_size=30, max_position_embeddings=16, num_hidden_layers=2, **sizes)
    hf.AlbertModel(config).save_pretrained(tmp_path)
    base = locate(str(tmp_path))

    def make(written: object) -> Adapted:
        parsed: Any = Method.parse(written)
        return adapt(base, Adaptation(task=TinyText(), method=parsed, labels=LABELS, seed=0), processor=object())

    made = make(method)
    shake(made.model)
    before = {name: tensor.clone() for name, tensor in delta_tensors(made).items()}
    others = {name: tensor.clone() for name, tensor in made.model.named_parameters() if not tensor.requires_grad}
    step(made, batch_for("bert"))
    assert before
    assert not [name for name, tensor in delta_tensors(made).items() if torch.equal(tensor, before[name])]
    assert all(torch.equal(made.model.get_parameter(name), tensor) for name, tensor in others.items())
    with pytest.raises(Unsupported, match="cannot be frozen at a depth: the blocks of 'albert' are not known"):
        make({"type": "freeze", "depth": 1})
