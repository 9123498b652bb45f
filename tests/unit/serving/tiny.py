"""Tiny random bases, and versions of them as training publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessorPil,
    ResNetConfig,
    YolosConfig,
    YolosImageProcessorPil,
    YolosModel,
)

from regraft.bases.adapt import Adaptation, adapt
from regraft.bases.adapted import Adapted
from regraft.bases.delta import delta_tensors
from regraft.bases.locate import locate, processor_files
from regraft.contracts import Method, Task
from regraft.store.card import model_card
from regraft.store.objects import open_store
from regraft.store.registry import Registry, Version

SPOKEN = "my card was charged twice the app crashes when i open it please send an invoice a b c how do reset"
LABELS = {"text-classification": ("billing", "bug", "other"), "object-detection": ("red", "blue")}
LABELS |= {"token-classification": ("O", "B-thing", "I-thing")}
TASKS = {
    "cls": "text-classification",
    "mean": "text-classification",
    "squares": "object-detection",
    "shapes": "object-detection",
}
"""The task of each base of the `bases` fixture."""
OF_HEADS = [name for name in Method.names() if Method.lookup(name).fits == "prototypes"]
"""Methods that fit classifiers."""
WAYS: list[Any] = [*OF_HEADS, {"type": "lora", "dora": True}, {"type": "lora", "targets": "linear"}]
TEXTS = [
    "my card was charged twice",
    "a",
    "the app crashes when i open it please send an invoice " * 6,
    "how do i reset it",
]


def bert(folder: Path, *, pooling: str | None = None) -> Path:
    """Write a BERT of two layers with a word tokenizer; `pooling` makes it a sentence encoder."""
    torch.manual_seed(1)
    folder.mkdir(parents=True)
    (folder / "words.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(SPOKEN.split())])
    )
    BertTokenizer(vocab=str(folder / "words.txt"), model_max_length=64).save_pretrained(folder)
    (folder / "words.txt").unlink()
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.4,
    )
    BertModel(config).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}_tokens": True}))
    return folder


def yolos(folder: Path) -> Path:
    """Write a YOLOS of two layers for images of 32 x 32."""
    torch.manual_seed(2)
    folder.mkdir(parents=True)
    YolosImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=[32, 32],
        patch_size=16,
        num_detection_tokens=4,
        initializer_range=0.4,
    )
    YolosModel(config).save_pretrained(folder)
    return folder


def detr(folder: Path) -> Path:
    """Write a DETR for images that keep their proportions: it pads them, and reads a mask."""
    torch.manual_seed(4)
    folder.mkdir(parents=True)
    DetrImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    sizes: Any = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "out_features": ["stage2"]}
    config = DetrConfig(
        backbone_config=ResNetConfig(layer_type="basic", **sizes),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_queries=4,
        init_std=0.3,
    )
    DetrForObjectDetection(config).save_pretrained(folder)
    return folder


def images(folder: Path) -> list[str]:
    """Write four images of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, size in enumerate([(40, 30), (20, 50), (64, 64), (33, 31)]):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(paths[-1])
    return paths


def cases() -> list[Any]:
    """Return every base with every method, except closed forms, which need one label a row."""
    named = [(way if isinstance(way, str) else "-".join(map(str, way.values())), way) for way in WAYS]
    closed = {name for name in Method.names() if Method.lookup(name).closed_form}
    # No rule names DETR's blocks yet, so that no method freezes it at a depth.
    cut = {"shapes": {"freeze", "lora-linear"}, "squares": set()}
    return [
        pytest.param(kind, way, id=f"{kind}-{name}")
        for kind in TASKS
        for name, way in named
        if kind not in cut or name not in closed | cut[kind]
    ]


CASES = cases()


def rows_of(kind: str, pictures: list[str]) -> tuple[str, list[str]]:
    """Return the input column of a base's task, and rows for it."""
    return ("text", TEXTS) if TASKS[kind] == "text-classification" else ("image", pictures)


def perturbed(adapted: Adapted, seed: int = 3, size: float = 0.1) -> dict[str, torch.Tensor]:
    """Return the delta after random changes to all of its tensors, in place of training."""
    generator = torch.Generator().manual_seed(seed)
    tensors = delta_tensors(adapted)
    with torch.no_grad():
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor += size * torch.randn(tensor.shape, generator=generator)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def publish(
    store: Path,
    base: Path,
    task: Any,
    method: Any,
    name: str = "tiny",
    *,
    seed: int = 3,
    size: float = 0.1,
    labels: Any = None,
) -> tuple[Version, Adapted]:
    """Publish a version in the store; return it with the model that it was made from."""
    parsed, how = Task.parse(task), Method.parse(method)
    assert isinstance(parsed, Task) and isinstance(how, Method)
    found = locate(str(base))
    fixed = parsed.classes()
    if labels is None:
        labels = LABELS.get(parsed.key(), ("a", "b")) if fixed is None else fixed
    adapted = adapt(found, Adaptation(task=parsed, method=how, labels=labels, seed=5))
    delta = save(perturbed(adapted, seed, size))
    meta: dict[str, Any] = {
        "name": name,
        "task": parsed.model_dump(mode="json"),
        "method": how.model_dump(mode="json"),
        "labels": list(labels),
        "dropout": None,
        "base": {"reference": str(base), "hash": found.hash, "processor_hash": found.processor_hash},
        "metrics": {parsed.score.name: 0.5},
        "baselines": {},
        "score": {"name": parsed.score.name, "mode": parsed.score.mode},
        "seed": 5,
        "lineage": {"run": "r", "checkpoint": "c", "data": {"fingerprint": "f", "rows": {}}, "parent": None},
        "versions": {"regraft": "0.1.0"},
    }
    files: dict[str, Any] = {
        "delta.safetensors": delta,
        "spec.yaml": b"data: {train: rows.csv, eval: 0.1}\n",
        "card.md": model_card(meta, {}).encode(),
        **{f"processor/{path.name}": path for path in processor_files(found)},
    }
    return Registry(open_store(str(store))).publish(name, files, meta), adapted


def alone(adapted: Adapted, column: str, value: str) -> torch.Tensor:
    """Compute the logits of one row alone, without any code of the serving floor."""
    adapted.eval_mode()
    example = adapted.task.encode({column: value, "row": 0}, adapted.context, train=False)
    with torch.inference_mode():
        logits: torch.Tensor = adapted.forward(adapted.task.collate([example], adapted.context)).logits
    return logits[0]
