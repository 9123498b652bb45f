"""BitFit: biases alone move, of every layer that has one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regraft.bases.anatomy import dissect
from regraft.bases.delta import delta_tensors
from regraft.errors import Unsupported
from regraft.methods.bitfit import BitFit
from unit.bases.families import FAMILIES, REFUSED, adapted, batch_for, located, step
from unit.bases.test_anatomy import task_model


def test_the_delta_is_every_bias_of_the_base_and_the_head(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), BitFit())
    biases = {f"bert.{name}" for name in made.delta_names if not name.startswith("classifier")}
    assert biases == {
        name for name, _ in made.model.named_parameters() if name.endswith(".bias") and not name.startswith("class")
    }
    assert {"bert.embeddings.LayerNorm.bias", "bert.encoder.layer.0.attention.self.key.bias"} <= biases
    assert all(tensor.ndim == 1 for name, tensor in delta_tensors(made).items() if name != "classifier.weight")


def test_running_statistics_and_scales_of_batch_norm_stay_the_bases(tmp_path: Path) -> None:
    made = adapted("mobilenet_v2", located("mobilenet_v2", tmp_path), BitFit())
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    step(made, batch_for("mobilenet_v2"))
    moved = {name for name, tensor in made.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and {name.rpartition(".")[2] for name in moved if not name.startswith("classifier")} == {"bias"}
    assert not [name for name in made.delta_names if "running" in name or "num_batches" in name]


def test_dropout_stays_on_between_moving_biases(tmp_path: Path) -> None:
    made = adapted("bert", located("bert", tmp_path), BitFit())
    made.train_mode()
    drops = [module for module in made.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert drops and all(module.training for module in drops)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_biases_but_those_that_are_refused(family: str) -> None:
    model = task_model(family)
    anatomy = dissect(model)
    if family in REFUSED["bitfit"]:
        with pytest.raises(Unsupported, match=r"biases of the base, and this \w+ has none; write ia3 or lora"):
            BitFit().adapt(model, anatomy)
        return
    BitFit().adapt(model, anatomy)
    moving = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.rpartition(".")[2] for name in moving} - {"weight", "class_labels"} <= {"bias", "in_proj_bias"}
