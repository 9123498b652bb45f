"""Tiny detectors with random weights, one of each family that the detection task trains, saved as bases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from support.rectangles import tiny_yolos

SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("attention_heads", 2), ("ffn_dim", 16))
}
STAGES: dict[str, Any] = {"embedding_size": 8, "depths": [1, 1, 1, 1], "layer_type": "basic"}


def detr() -> Any:
    """Return a DETR, whose images keep their proportions: a mask hides the padding."""
    backbone = hf.ResNetConfig(hidden_sizes=[8, 8, 8, 16], out_features=["stage4"], **STAGES)
    own = {"encoder_layers": 1, "decoder_layers": 2, "d_model": 16, **SIDES}
    return hf.DetrForObjectDetection(hf.DetrConfig(**_with(backbone), num_queries=6, **own))


def deformable_detr(**fields: bool) -> Any:
    """Return a Deformable DETR with two scales."""
    backbone = hf.ResNetConfig(hidden_sizes=[8, 8, 8, 16], out_features=["stage3", "stage4"], **STAGES)
    own = {"encoder_layers": 1, "decoder_layers": 2, "d_model": 32, "num_feature_levels": 2, **SIDES, **fields}
    return hf.DeformableDetrForObjectDetection(hf.DeformableDetrConfig(**_with(backbone), num_queries=6, **own))


def rt_detr(kind: str = "RTDetr") -> Any:
    """Return an RT-DETR or RTDetrV2 like those of the hub: with denoising queries and fixed anchors."""
    backbone = hf.RTDetrResNetConfig(hidden_sizes=[8, 8, 16, 16], out_indices=[2, 3, 4], **STAGES)
    own = {"encoder_in_channels": [8, 16, 16], "decoder_in_channels": [16, 16, 16], "encoder_hidden_dim": 16}
    config = getattr(hf, f"{kind}Config")(
        backbone_config=backbone,
        d_model=16,
        decoder_layers=2,
        num_queries=6,
        anchor_image_size=[64, 64],
        **own,
        **SIDES,
    )
    return getattr(hf, f"{kind}ForObjectDetection")(config)


MODELS: dict[str, Callable[[], Any]] = {
    "deformable_detr": deformable_detr,
    "detr": detr,
    "rt_detr": rt_detr,
    "rt_detr_v2": lambda: rt_detr("RTDetrV2"),
}
PROCESSORS = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetr", "detr": "Detr", "deformable_detr": "DeformableDetr"}


def saved(family: str, folder: Path) -> Path:
    """Save the family's tiny detector and its image processor; return the folder."""
    if family == "yolos":
        return tiny_yolos(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        MODELS[family]().save_pretrained(folder)
    fixed = family.startswith("rt_detr")
    size = {"height": 64, "width": 64} if fixed else {"shortest_edge": 64, "longest_edge": 96}
    written = {"image_processor_type": f"{PROCESSORS[family]}ImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(written), encoding="utf-8")
    return folder


def _with(backbone: Any) -> dict[str, Any]:
    """Return the fields that make transformers build that backbone and download none."""
    return {"backbone_config": backbone, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
