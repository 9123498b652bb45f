"""Tiny bases with random weights, one for each known family and some without a rule, with a task and a batch for each.

Saved by `save_pretrained` as a user's would be; hundreds of them are adapted in a test run, so they are very small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import transformers as hf
from torch import Tensor, nn

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.load import quiet
from regraft.bases.locate import Base, locate
from regraft.contracts import Answer, Batch, Context, Example, Kind, Loader, Method, Record, Row, Score, Task
from regraft.tasks.outputs.text_prototypes import ImageTextClassifier

LABELS = ("no", "yes", "perhaps")


class Tiny(Task):
    """A task that only builds a model."""

    auto: ClassVar[str] = "AutoModelForImageClassification"
    modality: ClassVar[str] = "image"
    score: ClassVar[Score] = Score("accuracy", "max")
    columns: ClassVar[Mapping[str, Kind]] = {}

    def encode(self, row: Row, context: Context, *, train: bool) -> Example:
        return dict(row)

    def collate(self, examples: Sequence[Example], context: Context) -> Batch:
        return {}

    def loss(self, output: Any, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        total = sum((value.square().sum() for value in outputs(output)), torch.zeros(()))
        return total, torch.tensor(3.0)

    def records(self, output: Any, batch: Batch, context: Context) -> list[Record]:
        return []

    def metrics(self, records: Sequence[Record], context: Context) -> dict[str, float]:
        return {}

    def answers(self, output: Any, batch: Batch, context: Context) -> list[Answer]:
        return []


class TinyText(Tiny):
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    modality: ClassVar[str] = "text"


class TinyTokens(TinyText):
    auto: ClassVar[str] = "AutoModelForTokenClassification"


class TinyDetection(Tiny):
    auto: ClassVar[str] = "AutoModelForObjectDetection"


class SomebodysClassifier(nn.Module):
    """A classifier of a plugin: it names only the attribute that is its base."""

    base_model_prefix = "base"

    def __init__(self, base: Any, labels: int) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(base.config.hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None]
        return SimpleNamespace(logits=self.classifier(self.dropout((states * mask).sum(1) / mask.sum(1))))


class TinyPooled(TinyText):
    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        return SomebodysClassifier(load("AutoModel", add_pooling_layer=False), len(labels))


class TinyAudio(Tiny):
    auto: ClassVar[str] = "AutoModelForAudioClassification"
    modality: ClassVar[str] = "audio"


class TinySegmentation(Tiny):
    auto: ClassVar[str] = "AutoModelForSemanticSegmentation"


class TinyDepth(Tiny):
    auto: ClassVar[str] = "AutoModelForDepthEstimation"


class TinyImageText(Tiny):
    auto: ClassVar[str] = "AutoModelForZeroShotImageClassification"

    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        return ImageTextClassifier(load(self.auto), len(labels))


class SomebodysTranslator(nn.Module):
    """A head on the output of an encoder-decoder's decoder for the input itself."""

    base_model_prefix = "base"

    def __init__(self, base: Any, labels: int) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.classifier = nn.Linear(base.config.hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        states = self.base(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=input_ids)
        return SimpleNamespace(logits=self.classifier(states.last_hidden_state.mean(1)))


class TinyDecoded(TinyText):
    def build(self, load: Loader, labels: Sequence[str]) -> nn.Module:
        return SomebodysTranslator(load("AutoModel"), len(labels))


def _sizes(**more: Any) -> dict[str, Any]:
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
    return {**layers, **more}


def _bert() -> Any:
    return hf.BertModel(hf.BertConfig(vocab_size=30, max_position_embeddings=16, **_sizes()))


def _vit() -> Any:
    return hf.ViTModel(hf.ViTConfig(image_size=16, patch_size=8, **_sizes()), add_pooling_layer=False)


def _resnet(kind: str) -> Any:
    return hf.ResNetModel(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], layer_type=kind)
    )


def _mobilenet_v1() -> Any:
    return hf.MobileNetV1Model(hf.MobileNetV1Config(depth_multiplier=0.05, min_depth=4, image_size=32))


def _mobilenet_v2() -> Any:
    config = hf.MobileNetV2Config(depth_multiplier=0.05, min_depth=4, image_size=32, finegrained_output=False)
    return hf.MobileNetV2Model(config)


def _yolos() -> Any:
    config = hf.YolosConfig(image_size=[16, 24], patch_size=8, num_detection_tokens=4, **_sizes())
    return hf.YolosForObjectDetection(config)


def _roberta(kind: str) -> Any:
    config = getattr(hf, f"{kind}Config")(vocab_size=30, max_position_embeddings=16, **_sizes())
    return getattr(hf, f"{kind}Model")(config, add_pooling_layer=False)


def _distilbert() -> Any:
    sizes = {"dim": 8, "hidden_dim": 12, "n_layers": 3, "n_heads": 2}
    return hf.DistilBertModel(hf.DistilBertConfig(vocab_size=30, max_position_embeddings=16, **sizes))


def _mpnet() -> Any:
    config = hf.MPNetConfig(vocab_size=30, max_position_embeddings=16, **_sizes())
    return hf.MPNetModel(config, add_pooling_layer=False)


def _deberta() -> Any:
    shared = {"relative_attention": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    more = {"pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3, "type_vocab_size": 0, "position_biased_input": False}
    return hf.DebertaV2Model(
        hf.DebertaV2Config(vocab_size=30, max_position_embeddings=16, **shared, **more, **_sizes())
    )


def _deit() -> Any:
    return hf.DeiTModel(hf.DeiTConfig(image_size=16, patch_size=8, **_sizes()), add_pooling_layer=False)


def _dinov2() -> Any:
    return hf.Dinov2Model(hf.Dinov2Config(image_size=16, patch_size=8, **_sizes()))


def _swin() -> Any:
    sizes = {"embed_dim": 4, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2}
    return hf.SwinModel(hf.SwinConfig(image_size=16, patch_size=4, **sizes))


def _convnext() -> Any:
    return hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 2], num_stages=2))


def _segformer() -> Any:
    stages = {"depths": [1, 2], "sr_ratios": [2, 1], "hidden_sizes": [4, 8], "patch_sizes": [3, 3], "strides": [2, 2]}
    more = {"num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8, "num_encoder_blocks": 2}
    return hf.SegformerModel(hf.SegformerConfig(**stages, **more))


def _dpt() -> Any:
    neck = {"neck_hidden_sizes": [4, 4, 6, 6], "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    model = hf.DPTForDepthEstimation(hf.DPTConfig(image_size=16, patch_size=4, **neck, **_sizes(num_hidden_layers=4)))
    torch.nn.init.constant_(model.head.head[4].bias, 1.0)  # its output ends in a ReLU, which random weights may close
    return model


def _clip() -> Any:
    text = _sizes(vocab_size=30, max_position_embeddings=16, eos_token_id=29, bos_token_id=2, pad_token_id=0)
    vision = _sizes(image_size=16, patch_size=8)
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))


def _detr() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 2], "layer_type": "basic"}
    config = hf.DetrConfig(
        backbone_config=hf.ResNetConfig(**sizes, out_features=["stage2"]),
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        num_queries=4,
        **_two_sided(2),
    )
    return hf.DetrForObjectDetection(config)


def _rt_detr() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 12, 12], "depths": [1, 1, 2, 1], "layer_type": "basic"}
    ends = {"encoder_hidden_dim": 8, "encoder_in_channels": [8, 12, 12], "decoder_in_channels": [8, 8, 8]}
    config = hf.RTDetrConfig(
        backbone_config=hf.RTDetrResNetConfig(**sizes, out_indices=[2, 3, 4]),
        num_queries=4,
        num_denoising=0,
        **ends,
        **{name: size for name, size in _two_sided(2).items() if name != "encoder_layers"},
    )
    return hf.RTDetrForObjectDetection(config)


def _two_sided(layers: int) -> dict[str, Any]:
    both = {"layers": layers, "attention_heads": 2, "ffn_dim": 12}
    return {"d_model": 8, **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in both.items()}}


def _bart() -> Any:
    return hf.BartModel(hf.BartConfig(vocab_size=30, max_position_embeddings=16, eos_token_id=29, **_two_sided(2)))


def _marian() -> Any:
    ends = {"pad_token_id": 0, "eos_token_id": 29, "decoder_start_token_id": 0, "forced_eos_token_id": None}
    return hf.MarianModel(hf.MarianConfig(vocab_size=30, max_position_embeddings=16, **ends, **_two_sided(2)))


def _t5() -> Any:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 4}
    return hf.T5Model(hf.T5Config(vocab_size=30, eos_token_id=29, decoder_start_token_id=0, **sizes))


def _gpt2() -> Any:
    ends = {"pad_token_id": 0, "bos_token_id": 29, "eos_token_id": 29}
    return hf.GPT2Model(hf.GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=30, n_positions=16, **ends))


def _decoder(kind: str) -> Any:
    sizes = _sizes(num_key_value_heads=1, head_dim=4, max_position_embeddings=16)
    return getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(vocab_size=30, pad_token_id=0, **sizes))


def _ast() -> Any:
    config = {"max_length": 20, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
    return hf.ASTModel(hf.ASTConfig(**config, **_sizes()))


def _wav2vec2() -> Any:
    layers = {"conv_dim": (8, 8), "conv_kernel": (40, 10), "conv_stride": (20, 10), "classifier_proj_size": 8}
    more: dict[str, Any] = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 30}
    more |= {"apply_spec_augment": False, "layerdrop": 0.0}  # as the platform's own task sets them
    return hf.Wav2Vec2Model(hf.Wav2Vec2Config(**layers, **more, **_sizes(num_hidden_layers=2)))


@dataclass(frozen=True)
class Family:
    """Builds a base of the family; the task on it, and its number of blocks."""

    make: Callable[[], Any]
    task: Task
    blocks: int


FAMILIES: dict[str, Family] = {
    "audio-spectrogram-transformer": Family(_ast, TinyAudio(), 3),
    "bart": Family(_bart, TinyText(), 4),
    "bert": Family(_bert, TinyText(), 3),
    "bert-pooled": Family(_bert, TinyPooled(), 3),
    "clip": Family(_clip, TinyImageText(), 3),
    "convnext": Family(_convnext, Tiny(), 3),
    "deberta-v2": Family(_deberta, TinyText(), 3),
    "deeplabv3-mobilenet_v2": Family(_mobilenet_v2, TinySegmentation(), 16),
    "deit": Family(_deit, Tiny(), 3),
    "detr": Family(_detr, TinyDetection(), 7),
    "dinov2": Family(_dinov2, Tiny(), 3),
    "dpt": Family(_dpt, TinyDepth(), 4),
    "distilbert": Family(_distilbert, TinyText(), 3),
    "gpt2": Family(_gpt2, TinyText(), 3),
    "llama": Family(lambda: _decoder("Llama"), TinyText(), 3),
    "marian": Family(_marian, TinyDecoded(), 4),
    "mobilenet_v1": Family(_mobilenet_v1, Tiny(), 26),
    "mobilenet_v2": Family(_mobilenet_v2, Tiny(), 16),
    "mpnet": Family(_mpnet, TinyText(), 3),
    "qwen2": Family(lambda: _decoder("Qwen2"), TinyText(), 3),
    "qwen3": Family(lambda: _decoder("Qwen3"), TinyText(), 3),
    "resnet": Family(lambda: _resnet("basic"), Tiny(), 4),
    "resnet-bottleneck": Family(lambda: _resnet("bottleneck"), Tiny(), 4),
    "roberta": Family(lambda: _roberta("Roberta"), TinyText(), 3),
    "rt_detr": Family(_rt_detr, TinyDetection(), 5),
    "segformer": Family(_segformer, TinySegmentation(), 3),
    "swin": Family(_swin, Tiny(), 3),
    "t5": Family(_t5, TinyText(), 4),
    "vit": Family(_vit, Tiny(), 3),
    "wav2vec2": Family(_wav2vec2, TinyAudio(), 4),
    "xlm-roberta": Family(lambda: _roberta("XLMRoberta"), TinyText(), 3),
    "yolos": Family(_yolos, TinyDetection(), 3),
}


TWO_TOWERS = ("clip",)
"""Families whose base has chains of blocks side by side; the task's model reads one of them."""


REFUSED: dict[str, frozenset[str]] = {"bitfit": frozenset({"llama", "qwen3", "t5"})}
"""Families that a method refuses, by the method: these have no biases."""


def save(name: str, folder: Path) -> Path:
    """Save the family's tiny base; its normalisations have statistics and no weight is exactly zero."""
    torch.manual_seed(1)
    model = FAMILIES[name].make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # Marian's positions are constants, which transformers computes again
                parameter.add_(0.05 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if "running" in key:
                buffer.add_(torch.rand_like(buffer))
    with quiet():
        model.save_pretrained(folder)
    return folder


def located(name: str, folder: Path) -> Base:
    """Save the family's base into `folder` and locate it."""
    return locate(str(save(name, folder)))


def adapted(name: str, base: Base, method: Method, *, seed: int = 0, dropout: float | None = None) -> Adapted:
    """Return the family's task model on its base, with a processor that is not used."""
    return adapt(
        base,
        Adaptation(task=FAMILIES[name].task, method=method, labels=LABELS, seed=seed, dropout=dropout),
        processor=SimpleNamespace(),
    )


def batch_for(name: str) -> Batch:
    """Return a batch of three rows."""
    generator = torch.Generator().manual_seed(2)
    if FAMILIES[name].task.modality == "text":
        ids = torch.randint(3, 29, (3, 6), generator=generator)
        ids[:, -1] = 29  # ends a text, where a classifier looks for that
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 2])}
    if name == "wav2vec2":
        return {"input_values": torch.randn(3, 2000, generator=generator), "labels": torch.tensor([0, 1, 2])}
    if FAMILIES[name].task.modality == "audio":
        return {"input_values": torch.randn(3, 20, 16, generator=generator), "labels": torch.tensor([0, 1, 2])}
    small = dict.fromkeys(("clip", "vit", "deit", "dinov2", "dpt", "swin"), (16, 16))
    side = {**small, "yolos": (16, 24), "rt_detr": (64, 64)}.get(name, (33, 32))
    return {"pixel_values": torch.randn(3, 3, *side, generator=generator), "labels": torch.tensor([0, 1, 2])}


def outputs(output: Any) -> list[Tensor]:
    """Return the logits, depth and boxes of a model; for RT-DETR also the scores that choose its queries."""
    names = ("logits", "predicted_depth", "pred_boxes", "enc_topk_logits", "enc_topk_bboxes")
    found = [getattr(output, name, None) for name in names]
    return [value for value in found if value is not None]


def shake(model: nn.Module) -> None:
    """Change every trained weight: LoRA's B and most biases are zero at first, which hides differences."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def step(made: Adapted, batch: Batch, optimizer: str = "adamw") -> None:
    """Take one optimizer step in train mode."""
    trained = [parameter for parameter in made.model.parameters() if parameter.requires_grad]
    chosen: torch.optim.Optimizer = (
        torch.optim.SGD(trained, lr=0.1) if optimizer == "sgd" else torch.optim.AdamW(trained, 0.01, weight_decay=0.5)
    )
    made.train_mode()
    total, weight = made.task.loss(made.forward(batch), batch, made.context)
    torch.autograd.backward(total / weight)
    chosen.step()
    made.eval_mode()
