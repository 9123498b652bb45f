"""Adapted models: frozen modules are never in train mode, and the head's inputs can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.load import quiet
from regraft.bases.locate import locate
from regraft.contracts import Loader, under
from regraft.errors import Unsupported
from regraft.methods.feature_extraction import FeatureExtraction
from regraft.methods.freeze import Freeze
from regraft.methods.full import Full
from regraft.methods.lora import Lora
from unit.bases.families import FAMILIES, LABELS, TinyText, adapted, batch_for, located


def dropouts(model: nn.Module) -> dict[str, nn.Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}


def test_the_trunk_does_not_drop_out_and_the_rest_does(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), Freeze(depth=2))
    made.train_mode()
    trunk = made.anatomy.trunk(2)
    for name, module in made.model.named_modules():
        if under(name, trunk):
            assert not module.training, name
    assert all(module.training for name, module in dropouts(made.model).items() if not under(name, trunk))
    made.eval_mode()
    assert not any(module.training for module in made.model.modules())


def test_a_parent_of_frozen_layers_only_is_in_eval_mode(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), Freeze(depth="all"))
    made.train_mode()
    assert not made.model.get_submodule("bert.encoder").training
    assert made.model.get_submodule("bert.pooler").training
    assert made.model.get_submodule("bert").training


def test_only_the_heads_dropout_is_on_under_feature_extraction(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), FeatureExtraction())
    made.train_mode()
    assert [name for name, module in dropouts(made.model).items() if module.training] == ["dropout"]


def test_frozen_batch_norm_is_in_eval_mode_under_lora_and_dropout_is_not(tmp_path: Path) -> None:
    made = adapted("mobilenet_v1", located("mobilenet_v1", tmp_path), Lora(rank=2))
    made.train_mode()
    norms = [module for module in made.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert made.model.get_submodule("dropout").training


def test_every_dropout_is_replaced(tmp_path: Path) -> None:
    made = adapted("bert-pooled", located("bert", tmp_path), Lora(dropout=0.3, rank=2), dropout=0.07)
    config = made.context.config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == config.classifier_dropout == 0.07
    found = {name: module.p for name, module in dropouts(made.model).items()}
    assert found["dropout"] == 0.07
    own = {name for name in found if ".lora_dropout." in name}
    assert own
    assert all(probability == (0.3 if name in own else 0.07) for name, probability in found.items())


def test_features_are_what_the_linear_head_sees(tmp_path: Path) -> None:
    for name in ("bert", "bert-pooled", "mobilenet_v2", "resnet", "vit"):
        made = adapted(name, located(name, tmp_path / name), Full())
        batch = batch_for(name)
        features, head = made.features(batch), made.linear_head()
        assert features.shape == (3, head.in_features)
        assert features.requires_grad
        torch.testing.assert_close(head(features), made.forward(batch).logits)
        assert not head._forward_pre_hooks


def test_a_head_of_many_layers_has_no_features(tmp_path: Path) -> None:
    made = adapted("yolos", located("yolos", tmp_path), Full())
    with pytest.raises(Unsupported, match="a head of one linear layer; the head of families holds Linear, Linear"):
        made.features(batch_for("yolos"))


def test_labels_do_not_reach_the_model(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), Full())
    batch = batch_for("bert")
    assert made.forward(batch).loss is None
    assert "labels" in batch


def test_a_pooler_that_the_base_lacks_belongs_to_the_head(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    with quiet():
        BertModel(BertConfig(vocab_size=30, **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    made = adapt(
        locate(str(tmp_path)),
        Adaptation(task=TinyText(), method=FeatureExtraction(), labels=LABELS, seed=0),
        processor=SimpleNamespace(),
    )
    assert made.anatomy.head == ("classifier", "bert.pooler.dense")
    assert set(made.delta_names) == {
        "pooler.dense.weight", "pooler.dense.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip


def test_what_the_files_hold_beside_the_base_does_not_matter(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    with quiet():
        ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path)
    made = adapted("vit", locate(str(tmp_path)), Full())
    assert not [name for name in made.delta_names if "pooler" in name]


def test_the_context_holds_labels_processor_and_configuration(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), Full())
    assert made.context.labels == LABELS
    assert made.context.config is made.model.config
    assert made.task is FAMILIES["bert"].task


class Overwriting(TinyText):
    """A classifier with an activation that overwrites what the base gave."""

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        model: Any = super().build(load, labels)
        model.dropout = nn.ReLU(inplace=True)
        return model


def test_no_layer_overwrites_what_an_earlier_one_gave(tmp_path: Path) -> None:
    adaptation = Adaptation(task=Overwriting(), method=Full(), labels=LABELS, seed=0)
    made: Any = adapt(located("bert", tmp_path), adaptation, processor=SimpleNamespace())
    states = torch.tensor([-1.0, 1.0])
    assert made.model.dropout(states).tolist() == [0.0, 1.0] and states.tolist() == [-1.0, 1.0]
