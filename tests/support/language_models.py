"""Tiny language models with random weights and a tokenizer of single bytes, as folders that a spec can name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from regraft.contracts import Context
from regraft.tasks.outputs.generation import generate, left_padded

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
PROMPTS = ("ab", "The quick brown fox")
"""The prompts of the two ranks of `write_on_ranks`."""


def byte_tokenizer(*, pad: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, so that tokens can be counted by hand."""
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
    """Return a language model of that family."""
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
    """Save a base of that family; `template` is its tokenizer's chat template."""
    model_of(family, tied=tied).save_pretrained(folder)
    byte_tokenizer(pad=pad, template=template).save_pretrained(folder)
    return folder


def write_on_ranks(rank: int, port: int, base: str, out: str) -> None:
    """Run one of two gloo ranks: shard a model by FSDP2, generate after this rank's prompt, write the ids."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        model = AutoModelForCausalLM.from_pretrained(base).eval()
        tokenizer = AutoTokenizer.from_pretrained(base)
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        context = Context(tokenizer, (), model.config)
        prompt = torch.tensor(tokenizer(PROMPTS[rank])["input_ids"])
        with torch.no_grad():
            (written,) = generate(model, left_padded([prompt], context), context, max_new_tokens=24)
        Path(out, str(rank)).write_text(json.dumps(written))
    finally:
        dist.destroy_process_group()
