"""A classifier of images whose head starts from texts: the base's text tower turns prompts into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from regraft.contracts import device_of
from regraft.errors import Unsupported

PLACE = "{}"
"""Where a prompt holds the label."""
_AT_ONCE = 64
"""Prompts that the text tower reads at a time."""


class ImageTextClassifier(nn.Module):
    """One linear layer on the image tower of a base with two towers; its logits are those of image beside text.

    Its inputs are image vectors of length 1. At first its rows are text vectors times the base's scale.
    """

    base_model_prefix = "base"

    def __init__(self, base: Any, labels: int) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.classifier = nn.Linear(width_of(base), labels)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Return `logits` (images, labels)."""
        vectors = self.base.get_image_features(pixel_values=pixel_values).pooler_output
        return SimpleNamespace(logits=self.classifier(unit(vectors)))

    def begin_with(self, prompts: Sequence[Sequence[str]], tokenizer: Any) -> None:
        """Write the head's weights, in place, from the prompts of each label; those of a label are averaged."""
        with torch.no_grad():
            vectors = torch.stack([unit(self._vectors(of_label, tokenizer).mean(0)) for of_label in prompts])
            self.classifier.weight.copy_(vectors * self.base.logit_scale.exp())
            bias = getattr(self.base, "logit_bias", None)
            self.classifier.bias.copy_(torch.zeros(()) if bias is None else bias)

    def _vectors(self, texts: Sequence[str], tokenizer: Any) -> Tensor:
        """Return the text tower's vectors of length 1, (texts, width)."""
        found = []
        for first in range(0, len(texts), _AT_ONCE):
            tokens = tokenized(texts[first : first + _AT_ONCE], tokenizer, self.config)
            given = {name: tensor.to(device_of(self.base)) for name, tensor in tokens.items()}
            found.append(unit(self.base.get_text_features(**given).pooler_output))
        return torch.cat(found)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors scaled to length 1."""
    found: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return found


def pairwise_sigmoid(config: Any) -> bool:
    """Return whether a base judges each pair of image and text by itself, by a sigmoid; else labels share a softmax."""
    return "siglip" in str(getattr(config, "model_type", ""))


def width_of(base: Any) -> int:
    """Return the width of the vectors that both towers give. Raises Unsupported for a base without two such towers."""
    towers = all(hasattr(base, name) for name in ("get_image_features", "get_text_features", "logit_scale"))
    width = getattr(base, "projection_dim", None) or getattr(
        getattr(base.config, "vision_config", None), "hidden_size", None
    )
    if not towers or not isinstance(width, int):
        raise Unsupported(
            f"a {type(base).__name__} has no towers for images and for texts that meet in one space: name a base of "
            "the CLIP or SigLIP families",
            where="base",
        )
    return width


def tokenized(texts: Sequence[str], tokenizer: Any, config: Any) -> dict[str, Tensor]:
    """Return texts as the text tower's inputs, padded as the base was trained: to 64 tokens, or to the longest.

    Raises Unsupported for a prompt that is longer than the base reads.
    """
    most = int(config.text_config.max_position_embeddings)
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    if max(lengths) > most:
        longest = texts[lengths.index(max(lengths))]
        raise Unsupported(
            f"the prompt {longest[:60]!r} has {max(lengths)} tokens, and the base reads {most}: write a shorter "
            "template or text of the label",
            where="task.templates",
        )
    padding = {"padding": "max_length", "max_length": min(64, most)} if pairwise_sigmoid(config) else {"padding": True}
    found = tokenizer(list(texts), truncation=True, return_tensors="pt", **{"max_length": most, **padding})
    return {name: tensor for name, tensor in found.items() if name in ("input_ids", "attention_mask")}
