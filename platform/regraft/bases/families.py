"""How the known families name their parts: one line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """How one family names its parts, relative to the bare base; `*` stands for every child in forward order.

    `stem` names modules before the blocks, dropout too, and whatever the blocks share, which may lie inside a block;
    those that a configuration leaves out are passed over. `blocks` are spellings of the same chain, in different
    versions of transformers or classes; the first of which every word exists counts. `between` names what stands
    between blocks and belongs to the one after it, `idle` what is a constant though it is kept as a parameter. `head`
    names the task's own layers where its class puts them inside the base.
    """

    stem: tuple[str, ...]
    blocks: tuple[str, ...]
    between: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    head: tuple[str, ...] = ()


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
_BACKBONE = "backbone.model.encoder.stages.*.layers.*"
_RT_DETR_HEAD = ("decoder.class_embed", "decoder.bbox_embed", "enc_score_head", "enc_bbox_head")
# Its encoder reads the stages side by side, and its decoder refines boxes between layers by the task's own head: after
# the backbone no layer is a function of the base and the layer before it.
_RT_DETR = Rule(("backbone.model.embedder",), (_BACKBONE,), head=_RT_DETR_HEAD)
_SINES = ("encoder.embed_positions", "decoder.embed_positions")

RULES: dict[str, Rule] = {
    "bart": Rule((*_EMBEDDINGS, *_POSITIONS), ("encoder.layers.* decoder.layers.*",)),
    "bert": Rule(("embeddings",), ("encoder.layer.*",)),
    "convnext": Rule(("embeddings",), ("encoder.stages.*.layers.*",), ("encoder.stages.*.downsampling_layer",)),
    "deberta-v2": Rule(_DEBERTA, ("encoder.layer.*",)),
    "deit": Rule(("embeddings",), ("layers.*", "encoder.layer.*")),
    "detr": Rule(_DETR, (_DETR_BLOCKS,), ("input_projection",)),
    "distilbert": Rule(("embeddings",), ("transformer.layer.*",)),
    "gpt2": Rule(("wte", "wpe", "drop"), ("h.*",)),
    "llama": Rule(("embed_tokens",), ("layers.*",)),
    "marian": Rule(_EMBEDDINGS, ("encoder.layers.* decoder.layers.*",), idle=_SINES),
    "mobilenet_v1": Rule(("conv_stem",), ("layer.*",)),
    "mobilenet_v2": Rule(("conv_stem",), ("layer.*",)),
    "mpnet": Rule(("embeddings", "encoder.relative_attention_bias"), ("encoder.layer.*",)),
    "qwen2": Rule(("embed_tokens",), ("layers.*",)),
    "qwen3": Rule(("embed_tokens",), ("layers.*",)),
    "resnet": Rule(("embedder",), ("encoder.stages.*.layers.*",)),
    "roberta": Rule(("embeddings",), ("encoder.layer.*",)),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "segformer": Rule((), ("stages.*.blocks.*",), ("stages.*.patch_embeddings", "stages.*.layer_norm")),
    "swin": Rule(("embeddings",), ("encoder.layers.*.blocks.*",), ("encoder.layers.*.downsample",)),
    "t5": Rule(
        (*_EMBEDDINGS, *_TABLES, *_DROPOUTS),
        ("encoder.block.* decoder.block.*", "encoder.block.*"),
        ("encoder.final_layer_norm",),
    ),
    "vit": Rule(("embeddings",), ("layers.*", "encoder.layer.*")),
    "xlm-roberta": Rule(("embeddings",), ("encoder.layer.*",)),
    "yolos": Rule(("embeddings", "encoder.interpolation"), ("encoder.layer.*",)),
}
"""By the configuration's model_type: the next family is one more line, or none where `chain` finds its blocks."""

UNREAD: dict[str, tuple[str, ...]] = {"MobileNetV2ForSemanticSegmentation": ("conv_1x1",)}
"""Layers of the bare base that a task's class runs and never reads: they get no gradient, which DDP refuses, and their
running statistics would drift for nothing."""
