"""Tiny BERTs with random weights that read a question and a text, with a tokenizer of words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer_of_pairs(words: Iterable[str], length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and punctuation that joins two texts as BERT's does."""
    vocabulary = [*SPECIAL, *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        mask_token="[MASK]",
        model_type="bert",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def tiny_reader(
    folder: Path, texts: Iterable[str], *, length: int = 64, width: int = 32, layers: int = 2, std: float = 0.02
) -> Path:
    """Save a BERT that reads the words of some texts; return the folder."""
    plain = pre_tokenizers.BertPreTokenizer()
    words = [word for text in texts for word, _ in plain.pre_tokenize_str(text.lower())]
    tokenizer = tokenizer_of_pairs(words, length)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=length,
        initializer_range=std,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
