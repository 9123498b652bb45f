"""Small CLIP and SigLIP of random weights with tokenizers of words and image processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from support.image_bases import COLOURS

WORDS = (
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    *["This", "is", "a", "photo", "of", "the", "colour", "bad", "picture"],
    *COLOURS,
    ".",
    "dark",
)
END = WORDS.index("</s>")
SIDE = 32


def tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """Save a CLIP; return the folder."""
    return _saved("CLIP", folder, seed, projection_dim=12)


def tiny_siglip(folder: Path, *, seed: int = 0) -> Path:
    """Save a SigLIP; return the folder."""
    return _saved("Siglip", folder, seed)


def _saved(kind: str, folder: Path, seed: int, **more: Any) -> Path:
    both = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": END, "bos_token_id": WORDS.index("<s>"), "pad_token_id": 0}
    text = {**both, **ends, "vocab_size": len(WORDS), "max_position_embeddings": 64, "projection_size": 16}
    vision = {**both, "image_size": SIDE, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(hf, f"{kind}Config")(text_config=text, vision_config=vision, **more)
        model = getattr(hf, f"{kind}Model")(config)
        for weight in model.parameters():
            if weight.ndim > 1:  # with the default initialization all images look alike
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    processor = {
        "image_processor_type": f"{kind}ImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def _tokenizer() -> hf.PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", WORDS.index("<s>")), ("</s>", END)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=64,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )
