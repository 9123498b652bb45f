"""Encoder-decoder bases with random weights and a tokenizer trained on the texts of the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
ENDINGS = {"t5": "$A </s>", "bart": "<s> $A </s>", "marian": "$A </s>"}
"""The end of a text by each family's tokenizer."""


def translator(
    folder: Path,
    family: str,
    texts: Sequence[str],
    *,
    width: int = 32,
    layers: int = 2,
    words: int = 200,
    seed: int = 3,
) -> Path:
    """Return a T5, BART or Marian with random weights and `layers` encoder and decoder layers each."""
    torch.manual_seed(seed)
    tokenizer = tokenizer_for(family, texts, words)
    tokenizer.save_pretrained(folder)
    ids: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    start = {"t5": 0, "bart": 1, "marian": 0}[family]
    _made(family, {**ids, "decoder_start_token_id": start}, width, layers).save_pretrained(folder)
    return folder


def tokenizer_for(family: str, texts: Sequence[str], words: int) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer that keeps blanks, so that decoding returns the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=words, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    special = [(token, SPECIAL.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=ENDINGS[family], special_tokens=special)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, model_type=family, **names)


def _made(family: str, ids: dict[str, Any], width: int, layers: int) -> Any:
    if family == "t5":
        sizes = {"d_model": width, "d_kv": width // 4, "d_ff": 2 * width, "num_layers": layers, "num_heads": 4}
        return T5ForConditionalGeneration(T5Config(**ids, **sizes, dropout_rate=0.1))
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", 4), ("ffn_dim", 2 * width))
    }
    config, model = (BartConfig, BartForConditionalGeneration) if family == "bart" else (MarianConfig, MarianMTModel)
    more: dict[str, Any] = {"bos_token_id": 3, "forced_eos_token_id": 1, "d_model": width, "init_std": 0.3}
    return model(config(**ids, **sizes, **more, max_position_embeddings=128, scale_embedding=True))
