"""Bases of the timm library, through transformers' wrapper."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.delta import delta_tensors
from regraft.bases.load import BaseLoader, load_processor
from regraft.bases.locate import locate
from regraft.contracts import Method
from regraft.errors import Unsupported
from regraft.tasks.image_classification import ImageClassification
from unit.bases.families import step

THERE = find_spec("timm") is not None and find_spec("torchvision") is not None


def hub_folder(folder: Path) -> Path:
    """Write the files of a repository of timm: no model_type, no file of an image processor."""
    folder.mkdir()
    config = {"architecture": "vgg11", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"features.0.weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.mark.skipif(THERE, reason="timm is installed: nothing is missing")
def test_what_is_missing_is_reported_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    base = locate(str(hub_folder(tmp_path / "vgg")))
    for use in (lambda: BaseLoader(base), lambda: load_processor(base, "image")):
        with pytest.raises(Unsupported, match=r"timm and torchvision: pip install 'regraft\[timm\]'"):
            use()


@pytest.mark.skipif(not THERE, reason="timm or torchvision is not installed")
@pytest.mark.parametrize("method", ["full", "feature-extraction", "lora"])
def test_a_timm_base_is_adapted(method: str, tmp_path: Path) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    cfg = {"input_size": [3, 64, 64], "num_classes": 10}
    config = TimmWrapperConfig(architecture="resnet18", num_labels=10, pretrained_cfg=cfg)
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "base")
    made = adapt(
        locate(str(tmp_path / "base")),
        Adaptation(task=ImageClassification(), method=Method.parse(method), labels=("no", "yes"), seed=0),
    )
    Image.new("RGB", (70, 70)).save(tmp_path / "a.png")
    rows = [{"row": n, "image": str(tmp_path / "a.png"), "label": ("no", "yes")[n]} for n in range(2)]
    batch = made.task.collate([made.task.encode(row, made.context, train=True) for row in rows], made.context)
    before = {name: tensor.detach().clone() for name, tensor in delta_tensors(made).items()}
    step(made, batch)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in delta_tensors(made).items())
