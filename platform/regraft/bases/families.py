"""Names of the parts of each known model family, one line for each family."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """Names of one family's parts, relative to the bare base; `*` matches every child in forward order."""

    stem: tuple[str, ...]
    """Modules before the blocks, dropout included, and modules that blocks share, which may be inside a block.

    Names that a configuration leaves out are skipped.
    """
    blocks: tuple[str, ...]
    """The chain of blocks as different classes or versions of transformers name it: patterns separated by spaces.

    The first entry whose patterns all match something is used.
    """
    between: tuple[str, ...] = ()
    """Modules between two blocks, which belong to the later one."""
    idle: tuple[str, ...] = ()
    """Constants that are stored as parameters."""
    head: tuple[str, ...] = ()
    """The task's own layers, if the task's class puts them inside the base."""
    whole: bool = False
    """Whether the task's class is the base: its files are those of a model with its head."""


_TABLE = "block.0.layer.0.SelfAttention.relative_attention_bias"
_TABLES = (f"encoder.{_TABLE}", f"decoder.{_TABLE}")
_DROPOUTS = ("encoder.dropout", "decoder.dropout")
_EMBEDDINGS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
_POSITIONS = (
    "encoder.embed_positions",
    "encoder.layernorm_embedding",
    "decoder.embed_positions",
    "decoder.layernorm_embedding",
)
_DEBERTA = ("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv")
_DETR = ("backbone.model.embedder", "position_embedding", "query_position_embeddings")
_DETR_BLOCKS = "backbone.model.encoder.stages.*.layers.* encoder.layers.* decoder.layers.*"
_DEPTH_BLOCKS = "backbone.encoder.layer.*", "backbone.layers.*"
_BACKBONE = "backbone.model.encoder.stages.*.layers.*"
_RT_DETR_HEAD = ("decoder.class_embed", "decoder.bbox_embed", "enc_score_head", "enc_bbox_head")
# The encoder of RT-DETR reads the stages side by side, and its decoder refines boxes between layers by the task's own
# head: after the backbone, no layer is a function of the base and the layer before it.
_RT_DETR = FamilyRule(("backbone.model.embedder",), (_BACKBONE,), head=_RT_DETR_HEAD)
_SINES = ("encoder.embed_positions", "decoder.embed_positions")

RULES: dict[str, FamilyRule] = {
    "bart": FamilyRule((*_EMBEDDINGS, *_POSITIONS), ("encoder.layers.* decoder.layers.*",)),
    "bert": FamilyRule(("embeddings",), ("encoder.layer.*",)),
    "convnext": FamilyRule(("embeddings",), ("encoder.stages.*.layers.*",), ("encoder.stages.*.downsampling_layer",)),
    "deberta-v2": FamilyRule(_DEBERTA, ("encoder.layer.*",)),
    "deit": FamilyRule(("embeddings",), ("layers.*", "encoder.layer.*")),
    "depth_anything": FamilyRule(("backbone.embeddings",), _DEPTH_BLOCKS, head=("neck", "head"), whole=True),
    "detr": FamilyRule(_DETR, (_DETR_BLOCKS,), ("input_projection",)),
    "distilbert": FamilyRule(("embeddings",), ("transformer.layer.*",)),
    "dpt": FamilyRule(("embeddings",), ("encoder.layer.*",)),
    "gpt2": FamilyRule(("wte", "wpe", "drop"), ("h.*",)),
    "llama": FamilyRule(("embed_tokens",), ("layers.*",)),
    "marian": FamilyRule(_EMBEDDINGS, ("encoder.layers.* decoder.layers.*",), idle=_SINES),
    "mobilenet_v1": FamilyRule(("conv_stem",), ("layer.*",)),
    "mobilenet_v2": FamilyRule(("conv_stem",), ("layer.*",)),
    "mpnet": FamilyRule(("embeddings", "encoder.relative_attention_bias"), ("encoder.layer.*",)),
    "qwen2": FamilyRule(("embed_tokens",), ("layers.*",)),
    "qwen3": FamilyRule(("embed_tokens",), ("layers.*",)),
    "resnet": FamilyRule(("embedder",), ("encoder.stages.*.layers.*",)),
    "roberta": FamilyRule(("embeddings",), ("encoder.layer.*",)),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "segformer": FamilyRule((), ("stages.*.blocks.*",), ("stages.*.patch_embeddings", "stages.*.layer_norm")),
    "swin": FamilyRule(("embeddings",), ("encoder.layers.*.blocks.*",), ("encoder.layers.*.downsample",)),
    "t5": FamilyRule(
        (*_EMBEDDINGS, *_TABLES, *_DROPOUTS),
        ("encoder.block.* decoder.block.*", "encoder.block.*"),
        ("encoder.final_layer_norm",),
    ),
    "vit": FamilyRule(("embeddings",), ("layers.*", "encoder.layer.*")),
    "xlm-roberta": FamilyRule(("embeddings",), ("encoder.layer.*",)),
    "yolos": FamilyRule(("embeddings", "encoder.interpolation"), ("encoder.layer.*",)),
}
"""Rules by the configuration's model_type. A family whose blocks `block_discovery` finds needs no rule."""

_FIRST_FUSION = "neck.fusion_stage.layers.0.residual_layer1"
UNREAD: dict[str, tuple[str, ...]] = {
    "DPTForDepthEstimation": ("dpt.layernorm", _FIRST_FUSION),
    "DepthAnythingForDepthEstimation": (_FIRST_FUSION,),
    "MobileNetV2ForSemanticSegmentation": ("mobilenet_v2.conv_1x1",),
}
"""Layers whose outputs a task's class does not read, by the name of that class.

They get no gradient, which is an error under DDP, and their running statistics would drift without effect."""
