"""Tiny bases of every family with a processor of their own, and rows for every task, made from the kinds of its
columns alone: a task or a family that joins is tested without a line here."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from regraft.bases.locate import Base, locate
from regraft.contracts import Kind, Row, Task
from unit.bases.families import FAMILIES, save

LABELS = ("no", "yes", "perhaps")
WORDS = [f"w{number}" for number in range(4, 29)]
TEXTS = ("w5 w6 w7 w8", "w9 w4", "w20 w21 w4 w5 w6")
SMALL = dict.fromkeys(("vit", "deit", "dinov2", "swin"), (16, 16))
SIDES = {**SMALL, "yolos": (16, 24), "rt_detr": (64, 64)}
PROCESSORS = {
    "yolos": "YolosImageProcessor",
    "detr": "DetrImageProcessor",
    "rt_detr": "RTDetrImageProcessor",
    "segformer": "SegformerImageProcessor",
}


def base_of(family: str, folder: Path) -> Base:
    """The family's tiny base with the tokenizer or the image processor that its tasks need."""
    save(family, folder)
    config = json.loads((folder / "config.json").read_text())
    if FAMILIES[family].task.modality == "text":
        tokenizer(config).save_pretrained(folder)
    else:
        height, width = SIDES.get(family, (33, 32))
        document = {
            "image_processor_type": PROCESSORS.get(family, "ViTImageProcessor"),
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
    return locate(str(folder))


def tokenizer(config: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Words by number: what the config pads with, an unknown word, a begin, and the end that classifiers look for."""
    pad = int(config.get("pad_token_id") or 0)
    names = {pad: "<pad>", 3: "<unk>", 2: "<s>", 29: "</s>"}
    vocabulary = {names.get(number, f"w{number}"): number for number in range(30)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 2), ("</s>", 29)]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=14,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def task_of(key: str) -> Task:
    """The task with its defaults, but for texts that fit the tiny bases, and short generations."""
    fields = Task.lookup(key).model_fields
    short = {"max_length": 12, "block_size": 12, "max_new_tokens": 4, "max_source_length": 12, "max_target_length": 8}
    chosen: dict[str, Any] = {"type": key, **{name: value for name, value in short.items() if name in fields}}
    if key == "semantic-segmentation":
        chosen["labels"] = list(LABELS)
    found = Task.parse(chosen)
    assert isinstance(found, Task)
    return found


def labels_of(task: Task) -> tuple[str, ...]:
    """The labels that a snapshot of these rows would have."""
    kinds = set(task.input_columns().values())
    if "tags" in kinds:
        return ("O", "B-thing", "I-thing")
    return LABELS if task.classes() is not None or kinds & {"label", "labels"} else ()


def rows_of(task: Task) -> list[Row]:
    """Three rows with every column that the task reads."""
    return [
        {"row": number, **{name: _value(kind, name, number) for name, kind in task.input_columns().items()}}
        for number in range(3)
    ]


def _value(kind: Kind, name: str, number: int) -> Any:
    values: dict[str, Any] = {
        "text": TEXTS[(number + (name == "pair")) % 3],
        "texts": [TEXTS[number]],
        "image": picture(number),
        "mask": mask(number),
        "label": LABELS[number],
        "labels": [LABELS[number]],
        "number": float(number),
        "boxes": [[4.0, 5.0, 12.0, 10.0]],
        "words": TEXTS[number].split(),
        "tags": ["B-thing", "I-thing", *["O"] * 9][: len(TEXTS[number].split())],
        "messages": [{"role": "user", "content": TEXTS[number]}, {"role": "assistant", "content": "w4"}],
    }
    return values[kind]


@lru_cache
def picture(number: int) -> bytes:
    """Pictures of three sizes, as the bytes of PNG files."""
    pixels = np.random.default_rng(number).integers(0, 255, (30 + 4 * number, 40 - 3 * number, 3), dtype=np.uint8)
    return _png(pixels)


@lru_cache
def mask(number: int) -> bytes:
    """A mask of the picture's size, all classes in it."""
    return _png(np.random.default_rng(number).integers(0, 3, (30 + 4 * number, 40 - 3 * number), dtype=np.uint8))


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fits(key: str, family: str, config: Any) -> bool:
    """Whether transformers has the task's class for the family's configuration."""
    task = Task.lookup(key)
    if task.modality != FAMILIES[family].task.modality:
        return False
    mapping = getattr(transformers, task.auto)._model_mapping
    return type(config) in mapping
