"""Small real bases and data sets for tests: random weights, seconds to train, nothing downloaded."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

VOCABULARY = (
    "lamp bulb plug sensor app parcel invoice refund account password login update cloud timer light switch phone "
    "the a my is was not on off please help how why when where can you i it and or to of for with new old red blue"
)
WORDS = VOCABULARY.split()
TOPICS = {"light": ["lamp", "bulb", "light"], "money": ["invoice", "refund"], "entry": ["password", "login", "account"]}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_bert(folder: Path, *, layers: int = 2, width: int = 32, pooling: str | None = "mean", seed: int = 7) -> Path:
    """Save a BERT with random weights and a word tokenizer as a base; return the folder."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer_of(SPECIAL + WORDS).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": width, **modes}))
    return folder


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    """Return a BERT-like tokenizer of words."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, mask_token="[MASK]", model_type="bert", **names
    )


def tickets(path: Path, rows: int, *, seed: int = 0) -> Path:
    """Write a CSV file of short texts whose topic words decide the label."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for number in range(rows):
            label = sorted(TOPICS)[number % len(TOPICS)]
            words = draw.choices(WORDS[16:], k=draw.randint(2, 12)) + draw.choices(TOPICS[label], k=2)
            draw.shuffle(words)
            out.writerow([" ".join(words), label])
    return path


def document(
    folder: Path, *, method: Any = "full", rows: int = 60, eval_rows: int = 30, **training: Any
) -> dict[str, Any]:
    """Return a complete spec as a mapping, on a tiny base and tiny data made under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base"
    if not base.exists():
        tiny_bert(base)
    for side, count, seed in (("train", rows, 1), ("eval", eval_rows, 2)):
        if not (folder / f"{side}.csv").exists():
            tickets(folder / f"{side}.csv", count, seed=seed)
    defaults: Mapping[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "baselines": False}
    return {
        "name": "tiny",
        "base": str(base),
        "task": "text-classification",
        "method": method,
        "data": {"train": str(folder / "train.csv"), "eval": str(folder / "eval.csv")},
        "training": {**defaults, **training},
        "compute": {"workers": 0, "cpus": 1, "trunk": "off"},
        "store": str(folder / "store"),
    }
