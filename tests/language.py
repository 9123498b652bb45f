"""Tiny language models with random weights and a tokenizer of single bytes, as folders that a spec can name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

END = "<|end|>"
SPECIAL = [END, "<|pad|>", "<|turn|>"]
POSITIONS = 128
SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,
    "eos_token_id": 0,
    "bos_token_id": 0,
}
FAMILIES = ("llama", "gpt2", "qwen2")


def byte_tokenizer(*, pad: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, so that tokens of a text can be counted by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"eos_token": END, **({"pad_token": "<|pad|>"} if pad else {})}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, extra_special_tokens=["<|turn|>"], **names
    )
    made.chat_template = template
    return made


def model_of(family: str, *, tied: bool = False, seed: int = 3) -> Any:
    """A language model of that family."""
    torch.manual_seed(seed)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**SIZES, tie_word_embeddings=tied))
    kinds: dict[str, Any] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    }
    config, model = kinds[family]
    return model(config(**SIZES, num_key_value_heads=1, tie_word_embeddings=tied))


def tiny_language(
    folder: Path, family: str = "llama", *, tied: bool = False, pad: bool = True, template: str | None = None
) -> Path:
    """A base of that family; `template` is its tokenizer's chat template."""
    model_of(family, tied=tied).save_pretrained(folder)
    byte_tokenizer(pad=pad, template=template).save_pretrained(folder)
    return folder
